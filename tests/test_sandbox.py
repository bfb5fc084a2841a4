"""The sandbox contains what it runs, and a program passes only by giving the right values."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

from tokensieve.errors import SandboxError
from tokensieve.sandbox import Outcome, Program, Query, Verdict, containment, pool, run_jobs

F_IS_1 = ("assert f() == 1",)


def judge(source: str, *tests: str, setup: str = "", seconds: float = 10.0) -> Verdict:
    return run_jobs([Program(source, tests or F_IS_1, setup)], seconds=seconds, workers=1)[0]


def num_descendants() -> int:
    """Idle workers count twice: the process that we started, and process 1 of its namespace."""
    ours = psutil.Process().children(recursive=True)
    return sum("from inside import worker" in " ".join(child.cmdline()) for child in ours if child.is_running())


def test_right_and_wrong_programs_keep_their_order() -> None:
    jobs = [Program(f"def f(): return {k % 3}", F_IS_1) for k in range(30)]
    assert [verdict.passed for verdict in run_jobs(jobs)] == [k % 3 == 1 for k in range(30)]


def test_no_jobs() -> None:
    assert run_jobs([]) == []


@pytest.mark.parametrize(
    "source",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "print('1 tests passed')\nprint('passed')",
        "def f():\n    import os\n    os._exit(0)",
        "def f():\n    import sys\n    sys.exit(0)",
        "class Yes:\n    def __eq__(self, other): return True\ndef f(): return Yes()",
        "class Yes(int):\n    def __eq__(self, other): return True\ndef f(): return Yes(7)",
        "class Yes(str):\n    def __eq__(self, other): return True\ndef f(): return Yes('x')",
        "class Yes(list):\n    def __eq__(self, other): return True\ndef f(): return Yes()",
        "import builtins\nbuiltins.AssertionError = None\nAssertionError = type('Quiet', (), {})\ndef f(): return 2",
        "import builtins\nbuiltins.exec = builtins.compile = lambda *a, **k: None\ndef f(): return 2",
        "import sys, types\nsys.settrace(lambda *a: None)\nsys.excepthook = lambda *a: None\ndef f(): return 2",
        'import os\nfor fd in range(64):\n    try: os.write(fd, b\'{"outcome": "passed", "reason": ""}\')\n    except OSError: pass',
        "import os\nfor fd in range(64):\n    try: os.close(fd)\n    except OSError: pass",
        "import os\ndef f():\n    for fd in range(64):\n        try: os.write(fd, b'\\0\\0\\0\\x02{}')\n        except OSError: pass\n    return 1",
        "import signal, os\nsignal.raise_signal(signal.SIGKILL)",
        "import signal\nsignal.raise_signal(signal.SIGSEGV)",
        "def f(:",
        "",
        "\0",
        "def f(): return None\n" * 3,
        "def f(): return f()",
        "def f(): return b'1'",
        "f = 2",
        "def f(): raise AssertionError('candidate')",
        "def f(): return lambda: 1",
    ],
)
def test_nothing_but_the_right_value_passes(source: str) -> None:
    assert not judge(source).passed


def test_a_class_in_place_of_a_function_agrees_with_no_number() -> None:
    near = "assert abs(f() - 7) < 1e-6"
    assert not judge("class f:\n    def __sub__(self, other): return 0.0", near).passed
    assert not judge("class f:\n    def __lt__(self, other): return True", "assert f() < 1e-6").passed
    honest = "class f:\n    def __init__(self, x=2): self.x = x\n    def __mul__(self, k): return f(self.x * k)"
    assert judge(honest, "assert (f() * 3).x == 6").passed


def test_a_number_subclass_counts_as_its_number() -> None:
    assert judge("import enum\nclass E(enum.IntEnum):\n    A = 1\ndef f(): return E.A").passed


def test_hiding_a_builtin_does_not_move_the_tests() -> None:
    cheat = "set = len = sorted = lambda *a: 0\ndef f(): return [5]"
    assert not judge(cheat, "assert set(f()) == set([1])").passed
    assert not judge(cheat, "assert sorted(f()) == sorted([1])").passed
    assert judge("def sum(a, b): return a + b", "assert sum(1, 2) == 3").passed  # it is the function under test


def test_the_candidate_never_holds_its_expected_answers() -> None:
    search = """
import gc, sys
def f():
    seen = [str(thing) for thing in gc.get_objects()] + [str(vars(m)) for m in list(sys.modules.values())]
    frame = sys._getframe()
    while frame:
        seen += [str(frame.f_locals), str(frame.f_code.co_consts)]
        frame = frame.f_back
    return any(''.join(['7313', '1984']) in text for text in seen)
"""
    assert judge(search, "assert f() == False, '73131984'").passed


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("while True: pass", Outcome.TIMEOUT),
        ("def f():\n    while True: pass", Outcome.TIMEOUT),
        ("import time\ntime.sleep(100)", Outcome.TIMEOUT),
        ("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass", Outcome.TIMEOUT),
        ("while True: print('x' * 100000)", Outcome.TIMEOUT),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", Outcome.TIMEOUT),
    ],
)
def test_endless_programs_end_at_the_limit(source: str, outcome: Outcome) -> None:
    assert judge(source, seconds=0.5).outcome is outcome


def test_memory_is_limited() -> None:
    assert judge("def f(): return 'x' * 10**10").outcome is Outcome.MEMORY
    assert judge("kept = []\nwhile True: kept.append(bytearray(10**7))").outcome is Outcome.MEMORY


def test_a_fork_bomb_and_its_children_end() -> None:
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    assert judge(bomb, seconds=1.0).outcome is Outcome.TIMEOUT
    assert num_descendants() <= 2 * len(pool._POOL.idle)
    assert judge("def f(): return 1").passed


def test_background_children_do_not_survive() -> None:
    leave = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    while True: time.sleep(0.01)\ndef f(): return 1"
    judge(leave)
    assert num_descendants() <= 2 * len(pool._POOL.idle)
    assert judge("def f(): return 1").passed


def test_deep_recursion_is_an_error_of_the_program() -> None:
    assert judge("def f(): return f()").outcome is Outcome.ERROR
    deep = "import sys\nsys.setrecursionlimit(10**8)\ndef f(): return [f()]"
    assert not judge(deep, seconds=2.0).passed
    nested = "def f():\n    x = []\n    for _ in range(10**5): x = [x]\n    return x"
    assert not judge(nested).passed


def test_files_outside_the_scratch_folder_stay_untouched(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    target = tmp_path / "written"
    judge(f"open({str(target)!r}, 'w').write('x')")
    assert containment().files is not target.exists() or not target.exists()
    assert judge("open('here', 'w').write('x')\ndef f(): return int(open('here').read() == 'x')").passed
    assert judge("import os\ndef f(): return len(os.listdir('.')) + 1").passed  # nothing of the program before
    assert judge("def f(): open('big', 'wb').write(bytes(10**8))").outcome is Outcome.ERROR


@pytest.mark.skipif(not containment().files, reason="this kernel allows no mount namespace")
def test_home_and_secrets_are_out_of_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o644)
    monkeypatch.setenv("TOKENSIEVE_SECRET", "s3cret")
    pool._POOL.close()  # so that a worker starts under this environment
    look = f"""
import os
def f():
    found = str(dict(os.environ))
    for path in ({str(secret)!r}, '/etc/passwd', '/proc/self/environ', '/proc/1/environ', {os.path.expanduser("~/.bashrc")!r}):
        try: found += open(path).read()
        except OSError: pass
    return found
"""
    assert judge(look, "assert 's3cret' not in f() and 'root:' not in f()").passed


def test_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        heard = []
        server.settimeout(1.0)

        def listen() -> None:
            with contextlib.suppress(OSError):
                heard.append(server.accept())

        thread = threading.Thread(target=listen)
        thread.start()
        port = server.getsockname()[1]
        verdict = judge(f"import socket\ndef f(): socket.create_connection(('127.0.0.1', {port}), 0.5)")
        thread.join()
    assert verdict.outcome is Outcome.ERROR
    assert not heard


def test_signals_reach_nobody_outside() -> None:
    ours = os.getpid()
    for target in (ours, 1, "os.getppid()", -1, 0):
        judge(
            f"import os, signal\ndef f():\n    os.kill({target}, signal.SIGTERM)\n    os.kill({target}, signal.SIGKILL)"
        )
    assert judge("def f(): return 1").passed


def test_a_killed_worker_is_replaced() -> None:
    assert judge("def f(): return 1").passed
    for worker in pool._POOL.idle:
        worker.process.kill()
    time.sleep(0.1)
    assert [verdict.passed for verdict in run_jobs([Program("def f(): return 1", F_IS_1)] * 4)] == [True] * 4


def test_an_interpreter_that_cannot_start_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SandboxError, match="python must start"):
        pool.Worker()
    assert list(tmp_path.iterdir()) == []


def test_weaker_containment_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    pool._warn_once.cache_clear()
    weak = pool.Containment(False, True, False, namespaces=False, call_filter=False, other_user=False)
    for _ in range(2):
        pool._warn_once(weak)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "files nor processes" in caplog.text
    pool._warn_once.cache_clear()


@pytest.mark.parametrize(
    ("source", "tests", "setup"),
    [
        ("class Node:\n    def __init__(self, v): self.v, self.left = v, None\n"
         "def depth(n): return 0 if n is None else 1 + depth(n.left)",
         ("assert depth(root) == 2", "assert isinstance(root, Node) and root.left.v == 2"), "root = Node(1)\nroot.left = Node(2)"),
        ("def f(items): items.sort(); return items", ("x = [3, 1]\nassert f(x) is x and x == [1, 3]",), ""),
        ("def g():\n    k = 0\n    while True:\n        yield k\n        k += 1", ("s = g()\nassert [next(s), next(s)] == [0, 1]",), ""),
        ("def g():\n    yield 1\n    yield 2", ("assert list(g()) == [1, 2] and sum(g()) == 3",), ""),
        ("def f(x): return map(str, x)", ("assert ''.join(f([1, 2])) == '12'",), ""),
        ("def apply(h, x): return [h(k) for k in x]", ("assert apply(lambda k: k * 2, [1, 2]) == [2, 4]",), ""),
        ("import math\ndef f(x): return math.sqrt(x)", ("assert math.isclose(f(2), 2**0.5)",), ""),
        ("from collections import *\ndef f(x): return Counter(x)", ("assert f('aab') == {'a': 2, 'b': 1}",), ""),
        ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)", ("assert f() == (1, 2)",), ""),
        ("def f(x): return {1: (x, [None, True]), 'é': {2.5, b'x'}}", ("assert f('☃') == {1: ('☃', [None, True]), 'é': {2.5, b'x'}}",), ""),
        ("def f(): raise ValueError('no')", ("try:\n    f()\nexcept ValueError as e:\n    assert str(e) == 'no'\nelse:\n    assert False",), ""),
        ("def f(x): return x + 1", ("def check(candidate):\n    assert candidate(1) == 2\ncheck(f)",), ""),
        ("class V:\n    def __init__(s, x): s.x = x\n    def __add__(s, o): return V(s.x + o.x)\n    def __eq__(s, o): return s.x == o.x",
         ("assert V(1) + V(2) == V(3)", "assert not V(1) == V(2)", "assert V(1) != 1"), ""),
        ("import re\ndef f(x): return re.search('b', x)", ("assert f('abc')", "assert not f('x')", "assert f('abc').group() == 'b'"), ""),
        ("from dataclasses import dataclass\n@dataclass\nclass D:\n    x: int = 1\ndef f(): return D()", ("assert f().x == 1",), ""),
        ("if __name__ == '__main__':\n    raise SystemExit\ndef f(): return 1", F_IS_1, ""),
        ("def f(): return float('nan')", ("import math\nassert math.isnan(f())",), ""),
    ],
)  # fmt: skip
def test_honest_programs_pass(source: str, tests: tuple[str, ...], setup: str) -> None:
    verdict = judge(source, *tests, setup=setup)
    assert verdict.passed, verdict


def test_hashing_and_random_are_reproducible() -> None:
    source = "import random\ndef f(): return [hash('abc'), random.random()]"
    reasons = {judge(source, "assert False, f()").reason for _ in range(3)}
    pool._POOL.close()
    assert {judge(source, "assert False, f()").reason} == reasons


def test_an_oversized_program_is_refused() -> None:
    assert judge("#" * 20_000_000).outcome is Outcome.ERROR


DATABASE = (
    "CREATE TABLE t (a INTEGER, b TEXT, c REAL); INSERT INTO t VALUES (1,'x',.1),(2,'y',.2),(2,'z',.3),(3,NULL,.4);"
)


@pytest.mark.parametrize(
    ("query", "gold", "outcome"),
    [
        ("SELECT a FROM t ORDER BY a DESC", "SELECT a FROM t", Outcome.PASSED),
        ("SELECT a FROM t ORDER BY a DESC", "SELECT a FROM t ORDER BY a", Outcome.FAILED),
        ("SELECT a, b FROM t ORDER BY a, b DESC", "SELECT a, b FROM t ORDER BY a", Outcome.PASSED),  # ties are free
        ("SELECT a, b FROM t ORDER BY a, b DESC", "SELECT a, b FROM t ORDER BY a, b", Outcome.FAILED),
        ("SELECT b FROM t ORDER BY a, b DESC LIMIT 2", "SELECT b FROM t ORDER BY a LIMIT 2", Outcome.PASSED),
        ("SELECT DISTINCT a FROM t", "SELECT a FROM t", Outcome.FAILED),  # duplicates count
        ("SELECT a AS q FROM t", "SELECT a FROM t", Outcome.PASSED),  # names do not
        ("SELECT a, b FROM t", "SELECT a FROM t", Outcome.FAILED),
        ("SELECT 3.0", "SELECT 3", Outcome.PASSED),
        ("SELECT '3'", "SELECT 3", Outcome.FAILED),
        ("SELECT 0.1 + 0.2", "SELECT 0.3", Outcome.PASSED),
        ("SELECT b FROM t WHERE b IS NULL", "SELECT NULL", Outcome.PASSED),
        ("SELECT a FROM t WHERE a > 9", "SELECT a FROM t WHERE 0", Outcome.PASSED),
        ("SELECT a FROM t WHERE a > 9", "SELECT a FROM t", Outcome.FAILED),
        ("SELECT sum(c) FROM t;", "SELECT 1.0", Outcome.PASSED),
        ("-- why\nSELECT 1", "SELECT 1", Outcome.PASSED),
        ("SELECT 1; SELECT 1", "SELECT 1", Outcome.ERROR),
        ("", "SELECT 1", Outcome.ERROR),
        ("SELEC 1", "SELECT 1", Outcome.ERROR),
        ("DELETE FROM t", "SELECT 1", Outcome.ERROR),
        ("DROP TABLE t", "SELECT 1", Outcome.ERROR),
        ("INSERT INTO t VALUES (1,1,1) RETURNING 1", "SELECT 1", Outcome.ERROR),
        ("PRAGMA user_version", "SELECT 0", Outcome.ERROR),
        ("SELECT * FROM pragma_user_version", "SELECT 0", Outcome.ERROR),
        ("ATTACH '/tmp/x' AS y", "SELECT 1", Outcome.ERROR),
        ("SELECT load_extension('x')", "SELECT 1", Outcome.ERROR),
        ("SELECT length(zeroblob(1000000000))", "SELECT 1000000000", Outcome.ERROR),
        ("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c", "SELECT 1", Outcome.TIMEOUT),
        ("SELECT 1", "SELECT nothing FROM t", Outcome.INVALID),
        ("SELECT 1", "DELETE FROM t", Outcome.INVALID),
    ],
)  # fmt: skip
def test_queries(query: str, gold: str, outcome: Outcome) -> None:
    verdict = run_jobs([Query(query, DATABASE, gold)], seconds=20, workers=1)[0]
    assert verdict.outcome is outcome, verdict


def test_an_interrupt_leaves_no_worker_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pool, "_collect", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_jobs([Program("while True: pass", F_IS_1)], seconds=60)
    assert num_descendants() <= 2 * len(pool._POOL.idle)
    assert judge("def f(): return 1").passed


@pytest.mark.parametrize("denied", [("unshare",), ("mount",), ("unshare", "mount")])
def test_machines_without_namespaces_still_contain(denied: tuple[str, ...]) -> None:
    """A child process forbids itself the calls, as containers do, and runs the hostile programs."""
    from tokensieve.sandbox.inside import seccomp

    if seccomp.build_filter(signals=True, forks=True) is None:
        pytest.skip("no system-call numbers for this machine")
    done = subprocess.run(
        [sys.executable, "-c", WEAK, *denied], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] == [True, *[False] * 6]
    assert report["alive"]
    assert not report["children"]


@pytest.mark.parametrize("denied", [(), ("unshare",)])
def test_a_killed_run_leaves_no_sleeping_program_behind(denied: tuple[str, ...]) -> None:
    with subprocess.Popen([sys.executable, "-c", ASLEEP, *denied], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "asleep\n"
        started = psutil.Process(run.pid).children(recursive=True)
        assert len(started) >= 3  # worker, judge, candidate
        run.kill()
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_the_call_filter_tells_own_limits_and_files_from_others() -> None:
    from tokensieve.sandbox.inside import seccomp

    if seccomp.build_filter(signals=False, forks=True) is None:
        pytest.skip("no system-call numbers for this machine")
    done = subprocess.run([sys.executable, "-c", FILTERED], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    own_limit, limit_of_another, flags, owner = json.loads(done.stdout)
    assert own_limit == flags == ""
    assert limit_of_another == owner == "PermissionError"


FILTERED = r"""
import ctypes, fcntl, json, os, resource
from tokensieve.sandbox.inside import seccomp
assert seccomp.install_filter(ctypes.CDLL(None), seccomp.build_filter(signals=False, forks=True))
def fault(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return type(error).__name__
    return ""
read, _ = os.pipe()
print(json.dumps([
    fault(resource.prlimit, 0, resource.RLIMIT_CPU),
    fault(resource.prlimit, os.getppid(), resource.RLIMIT_CPU),
    fault(fcntl.fcntl, read, fcntl.F_GETFL),
    fault(fcntl.fcntl, read, fcntl.F_SETOWN, os.getppid()),
]))
"""
DENY = r"""
import ctypes, json, os, platform, struct, sys, time
import psutil
from tokensieve.sandbox import Program, run_jobs, pool
from tokensieve.sandbox.inside import seccomp
calls = seccomp._MACHINES[platform.machine()][1]
lines = [(0x20, 0, 0, 0)]
for name in sys.argv[1:]:
    lines += [(0x15, 0, 1, calls[name]), (6, 0, 0, 0x00050001)]
lines.append((6, 0, 0, 0x7fff0000))
assert seccomp.install_filter(ctypes.CDLL(None), b"".join(struct.pack("HBBI", *line) for line in lines))
"""
ASLEEP = (
    DENY
    + r"""
import threading
def tell():
    while len(psutil.Process().children(recursive=True)) < 3:
        time.sleep(0.05)
    time.sleep(0.5)
    print("asleep", flush=True)
threading.Thread(target=tell, daemon=True).start()
run_jobs([Program("import time\ntime.sleep(1000)", ("assert f() == 1",))], seconds=500.0, workers=1)
"""
)
WEAK = (
    DENY
    + r"""
tests = ("assert f() == 1",)
programs = [
    "def f(): return 1",
    "import os\nos._exit(0)",
    f"import os\ndef f():\n    os.kill({os.getpid()}, 9)\n    return 1",
    "import os\nwhile True:\n    try: os.fork()\n    except BlockingIOError: pass",
    "import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass\nwhile True: pass",
    f"import resource\ndef f():\n    resource.prlimit({os.getpid()}, resource.RLIMIT_CPU)\n    return 1",
    f"import fcntl, os\ndef f():\n    fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, {os.getpid()})\n    return 1",
]
verdicts = run_jobs([Program(source, tests) for source in programs], seconds=1.0)
pool._POOL.close()
time.sleep(0.2)
left = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
print(json.dumps({"passed": [v.passed for v in verdicts], "alive": True, "children": len(left)}))
"""
)
