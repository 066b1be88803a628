"""--report of the real program: the page of a command that connects, fails, and asks for a name."""

import re
import subprocess
from pathlib import Path

import pytest
from lab import NO_PORTS, REMOTE4, Lab, program

pytestmark = pytest.mark.option("--report")


def cells(page: str, table: str) -> list[list[str]]:
    """The text of a table's rows."""
    body = page[page.index(f'id="{table}"') :]
    body = body[body.index("<tbody>") : body.index("</tbody>")]
    rows = re.findall(r"<tr>(.*?)</tr>", body)
    return [[re.sub(r"<[^>]*>", " ", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]


def test_the_page_of_a_command_tells_where_it_connected_and_what_failed(lab: Lab) -> None:
    page = lab.directory / "report.html"
    serve = ("python3", "-c", "import socket; s = socket.create_server(('0.0.0.0', 8123)); print('up', flush=True);"
             "c, _ = s.accept(); c.recv(3); c.sendall(b'x' * 5000); c.close()")  # fmt: skip
    ask = f"""
import socket, sys
with socket.create_connection(('{REMOTE4}', 8123)) as sock:
    sock.sendall(b'ask')
    assert len(sock.recv(5000, socket.MSG_WAITALL)) == 5000
with socket.socket() as sock:
    assert sock.connect_ex(('{REMOTE4}', 9))
sys.exit(7)
"""
    with lab.remote.popen(*serve) as server:
        assert server.stdout is not None and server.stdout.readline() == "up\n"
        done = lab.host.run(program("pasta-py"), *NO_PORTS, "--report", page, "--", "python3", "-c", ask, check=False)
    assert done.returncode == 7, done.stderr
    text = Path(page).read_text()
    rows = cells(text, "connections")
    assert [row[1:5] for row in rows] == [[REMOTE4, "8123", "tcp", "to it"], [REMOTE4, "9", "tcp", "to it"]]
    assert rows[0][6:8] == ["5.0 kB", "3 bytes"] and rows[0][8].startswith("finished")
    (problem,) = cells(text, "problems")
    assert problem[:5] == ["failed", REMOTE4, "9", "tcp", "nothing listens there (Connection refused)"]
    assert "python3 -c" in text[: text.index("</h1>")]


def test_a_page_on_standard_output_is_there_alone(lab: Lab) -> None:
    done = lab.host.run(program("pasta-py"), *NO_PORTS, "--report", "-", "--", "echo", "output")
    assert done.stderr.endswith("output\n")
    assert done.stdout.startswith("<!DOCTYPE html>") and done.stdout.rstrip().endswith("</html>")


def test_a_page_goes_to_a_program_too(lab: Lab) -> None:
    script = '"$@" --report fifo -- true & cat fifo; wait $!'
    done = lab.host.run("sh", "-c", f"rm -f fifo; mkfifo fifo; {script}", "sh", program("pasta-py"), *NO_PORTS)
    assert done.stdout.startswith("<!DOCTYPE html>") and done.stdout.rstrip().endswith("</html>") and "report" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--report", "/none/x", "--", "true"), "Couldn't open report '/none/x': No such file or directory: choose a path"),
        (("--report", "/dev/null", "--netns", "/proc/self/ns/net"), "--report is written at the end, and a start in the"),
        (("--report", "/dev/null", "--flow-log", "/dev/null", "--", "true"), "--report and --flow-log are both given"),
    ],
)
def test_a_report_that_cannot_be_is_refused(lab: Lab, words: tuple[str, ...], said: str) -> None:
    done: subprocess.CompletedProcess[str] = lab.host.run(program("pasta-py"), *words, check=False)
    assert done.returncode == 1 and said in done.stderr
