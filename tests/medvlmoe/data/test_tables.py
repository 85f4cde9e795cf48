import gzip

import pytest

from medvlmoe.data.problems import Problems
from medvlmoe.data.tables import read_table
from medvlmoe.errors import DataError


def table(tmp_path, content: bytes, *columns: str, **options):
    (tmp_path / "table.csv").write_bytes(content)
    return read_table(tmp_path / "table.csv", columns, **options)


def test_cells_are_stripped_text_and_the_index_is_the_line(tmp_path):
    read = table(tmp_path, b'a , b\n 1,"two\nlines"\n\n3,NA\n', "a", "b")
    assert read["a"].tolist() == ["1", "3"]
    assert read["b"].tolist() == ["two\nlines", "NA"]
    assert read.index.tolist() == [3, 5]


@pytest.mark.parametrize("content", ["größe;b\n1;2\n", "\ufeffgröße,b\n1,2\n", "größe\tb\r\n1\t2"])
def test_other_separators_byte_order_marks_and_line_ends(tmp_path, content):
    assert table(tmp_path, content.encode(), "größe").loc[2].tolist() == ["1", "2"]


def test_trailing_commas_and_gzip(tmp_path):
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2,\n"))
    assert read_table(path, ("a", "b"))["b"].tolist() == ["2"]


def test_columns_without_a_name_at_the_end_may_be_missing_in_rows(tmp_path):
    """The ChestX-ray14 table of 2017 ends its header, and in some copies its rows, with a comma."""
    read = table(tmp_path, b"a,b,\n1,2\n3,4,\n", "a", "b")
    assert read["b"].tolist() == ["2", "4"]
    with pytest.raises(DataError, match="line 3: 1 cells below a header of 3"):
        table(tmp_path, b"a,b,\n1,2\n3\n", "a", "b")


def test_only_the_columns_asked_for(tmp_path):
    read = table(tmp_path, b"a,b,c,\n1, 2 ,3\n4,5,6,\n", "c", "b", others=False)
    assert read.to_dict("list") == {"c": ["3", "6"], "b": ["2", "5"]}
    with pytest.raises(DataError, match="no column 'd'"):
        table(tmp_path, b"a,b\n1,2\n", "d", "b", others=False)


def test_every_malformed_row_is_counted_and_the_others_are_kept(tmp_path):
    content = b'a,b\n1,2\n3\n4,5,6\n"7\n,8,9",0,1\n2,3\n'
    with pytest.raises(
        DataError, match=r"line 3: 1 cells .* \(and 2 more such rows; medvlmoe data check names them all"
    ):
        table(tmp_path, content)
    problems = Problems()
    read = read_table(tmp_path / "table.csv", problems=problems)
    assert read["a"].tolist() == ["1", "2"]
    assert [line for problem in problems.found for line in problem.lines] == [3, 4, 6]
    assert "begun on line 5" in problems.found[2].text


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "latin-1", "utf-16-le"])
def test_a_declared_encoding_is_used(tmp_path, encoding):
    content = "name,b\nMüller,2\n".encode(encoding)
    assert table(tmp_path, content, "name", encoding=encoding)["name"].tolist() == ["Müller"]


def test_utf8_wins_over_a_wrongly_declared_encoding(tmp_path):
    assert table(tmp_path, "n\nMüller\n".encode(), encoding="cp1252")["n"].tolist() == ["Müller"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,b\nMüller,2\n".encode("cp1252"), r"byte 8 \(line 2\) is 0xfc; save it as UTF-8"),
        ("name\nx\n".encode("utf-16-le"), r"byte 1 \(line 1\) is 0x00"),
        (b"", "no header"),
        (b"b,c\n1,2\n", "no column 'a'; there are 'b', 'c'"),
        (b"a,b\n1,2\n1,2,3\n", "line 3: 3 cells below a header of 2"),
        (b"a,b\n1\n", "line 2: 1 cells"),
        (b"a,a\n1,2\n", "'a' is there twice"),
    ],
)
def test_mistakes_are_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        table(tmp_path, content, "a")
    assert str(tmp_path / "table.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "absent.csv")
    (tmp_path / "damaged.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n" * 99)[:30])
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path / "damaged.csv.gz")


def test_a_wrongly_declared_encoding_is_named(tmp_path):
    with pytest.raises(DataError, match=r"neither UTF-8 .* nor ascii"):
        table(tmp_path, "a\nMüller\n".encode("cp1252"), encoding="ascii")


def test_a_quote_that_is_never_closed_costs_its_own_line_and_not_the_rest(tmp_path):
    rows = [f"{number},{'x' * 30}\n" for number in range(6000)]  # more than the csv module takes in one cell
    rows[3] = f'3,"{rows[3]}'
    for last in (6000, 10):
        problems = Problems()
        content = "a,b\n" + "".join(rows[:last])
        read = table(tmp_path, content.encode(), problems=problems)
        assert read["a"].tolist() == [str(number) for number in range(last) if number != 3]
        assert read.index.tolist() == [line for line in range(2, last + 2) if line != 5]
        assert [next(problem.each()) for problem in problems.found] == [
            f"{tmp_path / 'table.csv'} line 5: a quote that opens here is never closed; close or remove it"
        ]


def test_a_quoted_header_over_columns_that_it_splits(tmp_path):
    """``"OriginalImage[Width,Height]"`` of ChestX-ray14 in quotes still stands for two columns."""
    read = table(tmp_path, b'a,"size[x,y]",b\n1,10,20,2\n', "a", "b")
    assert read.to_dict("list") == {"a": ["1"], "size[x": ["10"], "y]": ["20"], "b": ["2"]}
    assert table(tmp_path, b'a,"size[x,y]"\n1,2\n')["size[x,y]"].tolist() == ["2"]
