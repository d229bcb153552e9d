import pytest

from ppl.files import append_lines, drop_torn_line, replacing, whole_lines


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


def test_a_journal_keeps_whole_lines_and_drops_a_torn_one(tmp_path):
    path = tmp_path / "journal.jsonl"
    append_lines(path, ["one", "zwei: ä"])
    append_lines(path, ["three"])
    assert whole_lines(path) == (["one", "zwei: ä", "three"], "")
    whole = path.read_bytes()
    for torn in (b"ha", "hä".encode()[:-1]):  # a kill may cut a letter in two
        path.write_bytes(whole + torn)
        lines, rest = whole_lines(path)
        assert lines == ["one", "zwei: ä", "three"]
        assert rest.startswith("h")
        drop_torn_line(path)
        assert path.read_bytes() == whole
    path.write_bytes(b"nothing whole")
    assert whole_lines(path) == ([], "nothing whole")
    drop_torn_line(path)
    assert path.read_bytes() == b""
