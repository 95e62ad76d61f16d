def test_s3(s3, tiny_checkpoint):
    b = s3.new_bucket()
    from tart_ray.data.storage import Storage
    st = Storage(s3.storage_options)
    assert st.create(f"s3://{b}/x", b"1")
    assert not st.create(f"s3://{b}/x", b"1")
    st.write(f"s3://{b}/d/y[1]*.json", b"abc")
    assert st.names(f"s3://{b}") == ["d", "x"]
    assert st.names(f"s3://{b}/nope") == []
    assert st.read_many([f"s3://{b}/d/y[1]*.json"]) == [b"abc"]
    st.remove_tree(f"s3://{b}/d"); st.remove_tree(f"s3://{b}/nope")
    assert st.names(f"s3://{b}") == ["x"]
