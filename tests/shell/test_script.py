"""Scripts on stdin and with run_script; redirection."""

from __future__ import annotations

from tests.shell.conftest import BINARY, Cesbr

FILES = "redmine/volumes/files"


def test_script_keeps_its_place_and_ends_with_0(kept: Cesbr) -> None:
    """Commands of a script share one session; blank lines and comments are ignored."""
    said = kept(script=f"# go there\n\nuse latest\ncd {FILES}\ncat hello.txt\npwd\n")
    assert said.code == 0, said.err
    assert said.out.splitlines()[-2] == "hello again"
    assert said.out.splitlines()[-1].endswith(FILES)


def test_script_stops_at_the_first_failure(kept: Cesbr) -> None:
    """It exits with the code of the failed command and reports the line."""
    said = kept(script="pwd\nls /nope\npwd\n")
    assert (said.code, said.out) == (1, "/\n")
    assert "line 2" in said.err


def test_every_kind_of_failure_stops_a_script(kept: Cesbr) -> None:
    """Unknown commands, wrong arguments, unclosed quotes and failed redirection."""
    for line, code in (
        ("frobnicate", 2),
        ("ls --nope", 2),
        ('ls "', 2),
        ("pwd > /no/such/directory/file", 1),
        ("run_script /no/such/script", 1),
    ):
        said = kept(script=f"{line}\npwd\n")
        assert (said.code, said.out) == (code, ""), line
        assert "Traceback" not in said.err


def test_json_holds_for_a_whole_script(kept: Cesbr) -> None:
    """`cesbr --json` applies to every result and error of a script."""
    said = kept("--json", script="pwd\nls /nope\n")
    assert said.out == '{"path": "/"}\n'
    assert said.error["code"] == 1


def test_redirection_keeps_bytes(kept: Cesbr) -> None:
    """`>` and `|` pass bytes unchanged; a reader that stops early is not an error."""
    said = kept(
        script=f"cd latest/{FILES}\ncat sub/binary > copy\ncat sub/binary | cat > piped\n"
        "cat sub/binary >> copy\ncat sub/binary sub/binary | head -c 3\npwd > place\n"
    )
    assert said.code == 0, said.err
    assert (kept.here / "copy").read_bytes() == BINARY * 2
    assert (kept.here / "piped").read_bytes() == BINARY
    assert said.stdout == BINARY[:3]
    assert (kept.here / "place").read_text().endswith(f"{FILES}\n")


def test_quotes_and_escapes(kept: Cesbr) -> None:
    """Names are quoted as in a shell; names with both kinds of quotes are escaped."""
    said = kept(
        script=f"cd latest/{FILES}\ncat \"a 'quoted' name\"\ncat odd\\x20\\xff\\n\\x27\\x22name\n"
    )
    assert (said.code, said.out) == (0, "quoted\nodd\n"), said.err


def test_run_script_stops_like_stdin(kept: Cesbr) -> None:
    """A failure in a nested script ends both, with its exit code."""
    (kept.here / "inner").write_text("pwd\nls --nope\npwd\n")
    said = kept(script="run_script inner\npwd\n")
    assert (said.code, said.out) == (2, "/\n")
    (kept.here / "inner").write_text("use latest\n")
    said = kept(script="run_script inner\nls | head -n 1\n")
    assert said.code == 0
    assert said.out.endswith("_instance\n")


def test_quit_ends_a_script(kept: Cesbr) -> None:
    """Commands after `quit` or `exit` are not run."""
    for word in ("quit", "exit"):
        said = kept(script=f"pwd\n{word}\nfrobnicate\n")
        assert (said.code, said.out) == (0, "/\n")


def test_quotes_within_words(kept: Cesbr) -> None:
    """Quotes after ``=`` and ``/`` work as in other shells, where cmd2 takes them literally."""
    said = kept(
        script="find redmine --name='hello*'\ncat latest/\"redmine\"/volumes/files/hello.txt"
    )
    assert said.code == 0, said.err
    assert said.out.count("hello.txt\n") == 2
    assert said.out.endswith("hello again\n")
