import pytest

from ppl.files import replacing


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "table.json"
    for text in ("first", "second"):
        with replacing(path) as partial:
            partial.write_text(text)
            assert not path.exists() or path.read_text() != text
        assert path.read_text() == text
    assert [file.name for file in tmp_path.iterdir()] == ["table.json"]


def test_an_error_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "table.json"
    path.write_text("whole")

    def interrupted():
        with replacing(path) as partial:
            partial.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "whole"
    assert [file.name for file in tmp_path.iterdir()] == ["table.json"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "table.json"):
        pass
