"""Small cross-encoders with random weights, saved as sentence-transformers and transformers save them."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from benchmarks.random_models import make_word_pieces

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "What is the capital of France? Paris is its capital, and its largest city.",
    "Retrieve a passage that answers this question about history, science or law.",
    "0 1 2 3 4 5 6 7 8 9 lift flow jet wing mach supersonic boundary layer",
    "Judge whether the Document meets the requirements of the Query and the Instruct: yes or no.",
]
CHAT_TEMPLATE = (
    "{%- set ns = namespace(instruct='Find what answers', query='', document='') -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}{%- set ns.instruct = message.content -%}"
    "{%- elif message.role == 'query' -%}{%- set ns.query = message.content -%}"
    "{%- elif message.role == 'document' -%}{%- set ns.document = message.content -%}{%- endif -%}"
    "{%- endfor -%}"
    "<|im_start|>Judge: yes or no.\n<Instruct>: {{ ns.instruct }}\n<Query>: {{ ns.query }}\n"
    "<Document>: {{ ns.document }}<|im_end|>\n"
)


def word_pieces(folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer like BERT's, with T5's sentinels beside its own special tokens."""
    fast = make_word_pieces(TEXTS, vocab_size=300, max_length=128)
    fast.add_special_tokens({"additional_special_tokens": [f"<extra_id_{i}>" for i in range(8)]})
    fast.save_pretrained(folder)
    return fast


def make_bert(folder: Path, *, labels: int = 1, seed: int = 0) -> Path:
    """Like ms-marco MiniLM and BGE rerankers."""
    tokenizer = word_pieces(folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        num_labels=labels,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def make_headless_bert(folder: Path) -> Path:
    """A BERT that was trained for something else: without the weights that give a score."""
    weights = load_file(make_bert(folder) / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "classifier" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_modern_bert(folder: Path, *, seed: int = 0) -> Path:
    """Like GTE's and Ettin's rerankers."""
    tokenizer = word_pieces(folder)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        global_attn_every_n_layers=3,
        local_attention=16,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        num_labels=1,
        initializer_range=0.3,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ModernBertForSequenceClassification(config).save_pretrained(folder)
    return folder


def make_qwen3(folder: Path, *, seed: int = 0) -> Path:
    """Like Qwen3-Reranker: a causal model that answers yes or no, as sentence-transformers saves it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([*TEXTS, "yes", "no"] * 3, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=256,
    )
    fast.add_tokens([word for word in ("yes", "no") if tokenizer.token_to_id(word) is None])
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(fast),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=64,
        max_position_embeddings=256,
        pad_token_id=fast.pad_token_id,
        eos_token_id=fast.eos_token_id,
        bos_token_id=None,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Qwen3ForCausalLM(config).save_pretrained(folder)
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(folder), device="cpu").save_pretrained(str(folder))
    return folder


def make_modular(folder: Path, *, seed: int = 0) -> Path:
    """Like Ettin's rerankers: a bare encoder, whose first token goes through modules of sentence-transformers."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    inner = make_modern_bert(folder / "inner", seed=seed)
    encoder = Transformer(str(inner))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        size = encoder.get_embedding_dimension()
        head = Dense(size, 1, module_input_name="sentence_embedding", module_output_name="scores",
                     activation_function=torch.nn.Identity())  # fmt: skip
        modules = [encoder, Pooling(size, pooling_mode="cls"), head]
        CrossEncoder(modules=modules, device="cpu").save_pretrained(str(folder))
    shutil.rmtree(inner)
    return folder
