"""What a step sees: every positive once an epoch, the published shares, the same whoever asks and when."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tart_ray.config import TrainingConfig
from tart_ray.training.batches import plan_microbatches
from tart_ray.training.examples import Query
from tart_ray.training.sampling import Group, Sampler


def make_queries(count: int = 30, negatives: int = 6, unfollowing: int = 2, task: str = "t") -> list[Query]:
    return [
        Query(
            f"{task}-q{i}",
            task,
            ("Find it", "Get it", "Seek it"),
            tuple(f"{task}-p{i}.{j}" for j in range(1 + i % 2)),
            tuple(f"{task}-n{i}.{j}" for j in range(negatives)),
            tuple(f"{task}-u{i}.{j}" for j in range(unfollowing)),
        )
        for i in range(count)
    ]


def epoch(sampler: Sampler, number: int = 0) -> list[Group]:
    start = number * sampler.steps_per_epoch
    return [group for step in range(start, start + sampler.steps_per_epoch) for group in sampler.groups(step)]


def kinds(groups: list[Group]) -> Counter[str]:
    return Counter(text.split("-")[1][0] for group in groups for text in group.documents)


def test_an_epoch_has_every_positive_once_with_four_negatives() -> None:
    config = TrainingConfig(queries_per_step=7, epochs=2)
    sampler = Sampler(make_queries(), config)
    assert sampler.steps == 2 * -(-45 // 7)
    first, second = epoch(sampler), epoch(sampler, 1)
    assert sorted(group.documents[0] for group in first) == sorted(
        f"t-p{i}.{j}" for i in range(30) for j in range(1 + i % 2)
    )
    assert {len(set(group.documents)) for group in first} == {5}
    assert [group.documents[0] for group in first] != [group.documents[0] for group in second]
    for group in first:
        number = group.documents[0].split("p")[1].split(".")[0]
        assert all(text.split("-")[1][1:].split(".")[0] == number for text in group.documents)
    joined = Counter(text.split(" [SEP] ")[0] for group in first for text in group.queries)
    assert set(joined) == {"Find it", "Get it", "Seek it"}
    assert any(len(set(group.queries)) > 1 for group in first), "an instruction is drawn for each pair"


def test_a_step_is_a_function_of_its_number() -> None:
    queries, config = make_queries(), TrainingConfig(queries_per_step=7, random_negatives=(1.0, 0.0), epochs=3)
    sampler = Sampler(queries, config)
    expected = [sampler.groups(step) for step in range(sampler.steps)]
    late = Sampler(queries, config)
    assert [late.groups(step) for step in reversed(range(sampler.steps))] == expected[::-1]
    other = Sampler(queries, config.model_copy(update={"seed": 1}))
    assert other.groups(0) != expected[0]


def test_unfollowing_negatives_are_a_share_of_each_task_and_no_more_than_the_cap() -> None:
    queries = make_queries(task="a") + make_queries(task="b", unfollowing=0)
    groups = epoch(Sampler(queries, TrainingConfig()))
    assert kinds(groups)["u"] == int(0.16 * 45 * 5)  # of task a; task b has none
    assert kinds(groups)["n"] == 2 * 45 * 4 - 36
    assert {len(group) for group in groups} == {5}, "they take the places of other negatives"
    assert max(sum("-u" in text for text in group.documents) for group in groups) == 1, "spread before doubled"
    assert kinds(epoch(Sampler(queries, TrainingConfig(max_unfollowing=11))))["u"] == 11
    assert kinds(epoch(Sampler(queries, TrainingConfig(max_unfollowing_fraction=0))))["u"] == 0
    assert kinds(epoch(Sampler(queries, TrainingConfig(max_unfollowing_fraction=1))))["u"] == 90


@pytest.mark.parametrize(
    ("negatives", "unfollowing"), [(0, 4), (1, 3), (2, 5), (4, 4)], ids=["none else", "one", "two", "enough"]
)
def test_unfollowing_negatives_are_no_larger_share_where_there_are_few_others(negatives: int, unfollowing: int) -> None:
    groups = epoch(Sampler(make_queries(200, negatives, unfollowing), TrainingConfig()))
    found = kinds(groups)
    assert all(len(group) > 1 for group in groups)
    if negatives:
        assert found["u"] == int(0.16 * found.total())
    else:
        assert found["u"] == len(groups), "the one negative that each query has is more than the share allows"


def test_small_tasks_share_what_is_allowed() -> None:
    queries = [query for i in range(100) for query in make_queries(1, task=f"t{i}")]
    assert kinds(epoch(Sampler(queries, TrainingConfig())))["u"] == 0.16 * 100 * 5
    assert kinds(epoch(Sampler(queries, TrainingConfig(max_unfollowing=0))))["u"] == 0


def test_where_a_task_has_no_random_document_its_hard_ones_are_taken() -> None:
    config = TrainingConfig(random_negatives=(1.0, 1.0), max_unfollowing=0)
    lonely = [query for i in range(5) for query in make_queries(1, 4, task=f"t{i}")]
    assert {len(group) for group in epoch(Sampler(lonely, config))} == {5}
    positives = {document: None for query in make_queries(4, 3) for document in query.positives}
    shared = [
        Query(q.text, "t", q.instructions, q.positives, (*q.negatives, *(positives.keys() - {*q.positives})))
        for q in make_queries(4, 3)
    ]
    groups = epoch(Sampler(shared, config.model_copy(update={"random_negatives": (0.5, 0.5), "num_negatives": 8})))
    assert all(len(set(group.documents)) == len(group) for group in groups), "none twice"


def test_random_negatives_give_way_to_hard_ones() -> None:
    config = TrainingConfig(random_negatives=(1.0, 0.0), queries_per_step=5, max_unfollowing=0, epochs=4)
    sampler = Sampler(make_queries() + make_queries(task="other"), config)
    hard = [kinds(epoch(sampler, number))["n"] / (90 * 4) for number in range(4)]
    assert hard == sorted(hard)
    assert hard[0] < 0.2
    assert hard[3] > 0.8
    for group in epoch(sampler):
        own = group.queries[0].split("-q")[1]
        assert all(text.startswith(group.documents[0].split("-")[0]) for text in group.documents), "of the task"
        assert all(not text.split("-")[1].startswith(f"p{own}.") for text in group.documents[1:])


def test_all_negatives_where_no_number_is_given_and_one_instruction_for_a_list() -> None:
    config = TrainingConfig(num_negatives=None, loss="listwise", max_unfollowing_fraction=1)
    for group in epoch(Sampler(make_queries(negatives=9), config)):
        assert len(group) == 12
        assert len(set(group.queries)) == 1
    few = epoch(Sampler(make_queries(negatives=2, unfollowing=0), TrainingConfig()))
    assert {len(group) for group in few} == {3}


def test_a_bare_query_and_a_teachers_scores() -> None:
    query = Query("q", "", (), ("p",), ("n0", "n1"), (), (3.0,), (0.0, 1.0))
    (group,) = Sampler([query], TrainingConfig(loss="margin_mse")).groups(0)
    assert group.queries == ["q"] * 3
    assert dict(zip(group.documents, group.scores, strict=True)) == {"p": 3.0, "n0": 0.0, "n1": 1.0}
    with pytest.raises(ValueError, match="teacher's scores"):
        Sampler(make_queries(), TrainingConfig(loss="margin_mse"))
    with pytest.raises(ValueError, match="no query"):
        Sampler([], TrainingConfig())


def test_microbatches_keep_units_whole_and_the_budget() -> None:
    lengths, sizes = np.array([3, 9, 5, 5, 2, 2, 20]), np.array([2, 2, 2, 1])
    batches = plan_microbatches(lengths, sizes, 24)
    assert [batch.tolist() for batch in batches] == [[6], [0, 1], [2, 3, 4, 5]]
    assert plan_microbatches(lengths, np.ones(7, np.int64), 20)[1].tolist() == [1, 2]
