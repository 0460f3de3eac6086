"""Broken packages named `torch`: each breaks its import in one way that real ones have broken in.

A fault is the text of `torch/__init__.py`. `C` code is built once where there is a compiler; without one
ctypes reaches the same calls of libc and libpthread.
"""

from __future__ import annotations

from pathlib import Path

GIL_HELD = """
import ctypes
lock = ctypes.create_string_buffer(64)
pthread = ctypes.PyDLL(None)              # PyDLL: the call keeps the interpreter's lock
pthread.pthread_mutex_lock(lock)
pthread.pthread_mutex_lock(lock)
"""

FAULTS: dict[str, str] = {
    "fine": "__version__ = '9.9.9'",
    "sleeps": "import time\ntime.sleep(1e6)",
    "ignores_all_signals": """
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
time.sleep(1e6)
""",
    "deadlock_gil_held": GIL_HELD,
    "deadlock_gil_released": GIL_HELD.replace("PyDLL", "CDLL"),
    "spins": "while True:\n    pass",
    "catastrophic_regex": "import re\nre.match(r'(a+)+$', 'a' * 60 + 'b')",
    "daemon_then_hang": """
import os, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        time.sleep(1e6)
time.sleep(1e6)
""",
    "leaves_a_daemon": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    time.sleep(1e6)
os.wait()
""",
    "grandchild_holds_stdout": "import subprocess\nsubprocess.Popen(['sleep', '1000000'])",
    "fork_bomb": """
import os, time
for _ in range(200):
    if os.fork() == 0:
        time.sleep(1e6)
time.sleep(1e6)
""",
    "allocates_for_ever": "hoard = []\nwhile True:\n    hoard.append(bytearray(2**24))",
    "eats_descriptors": "hoard = []\nwhile True:\n    hoard.append(open('/dev/null'))",
    "floods_stdout": """
import time
line = 'x' * 65535
for _ in range(300):
    print(line)
time.sleep(0.3)
print('the last line')
""",
    "floods_stdout_for_ever": "line = 'x' * 65535\nwhile True:\n    print(line)",
    "segfault": "import faulthandler, ctypes\nctypes.string_at(0)",
    "abort": "import os\nos.abort()",
    "bad_alloc": "import os\nos.write(2, b\"terminate called after throwing an instance of 'std::bad_alloc'\\n\")\nos.abort()",
    "exits_with_zero": "import os\nos._exit(0)",
    "exits_with_three": "import os\nprint('no licence')\nos._exit(3)",
    "stops_itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "reads_stdin": "input('continue? ')",
    "missing_library": "raise ImportError('libcudart.so.12: cannot open shared object file: No such file or directory')",
    "undefined_symbol": "raise ImportError('/x/libtorch_cuda.so: undefined symbol: ncclCommRegister')",
    "old_glibc": 'raise OSError("/lib/libc.so.6: version `GLIBC_2.34\' not found (required by /x/libtorch.so)")',
    "circular": "from torch import nn\nfrom torch.nn import Linear",
    "missing_dependency": "import a_module_that_nobody_has",
    "syntax_error": "def broken(:\n    pass",
    "lock_of_a_living_process": """
import fcntl, os, pathlib, time
path = os.environ['LOCK_FILE']
file = os.open(path, os.O_RDWR | os.O_CREAT)
fcntl.flock(file, fcntl.LOCK_EX)
""",
    "stale_lock_file": """
import os, time
class Baton:
    def __init__(self, path):
        self.lock_file_path = path
    def wait(self):
        while os.path.exists(self.lock_file_path):
            time.sleep(0.02)
Baton(os.environ['LOCK_FILE']).wait()
""",
    "prints_while_waiting": """
import time
while True:
    print('still waiting for the lock', flush=True)
    time.sleep(0.05)
""",
    "retries_an_import": """
import time
while True:
    try:
        import never_there
    except ImportError:
        time.sleep(0.01)
""",
    "waits_for_a_child": "import subprocess\nsubprocess.run(['sleep', '1000000'])",
    "waits_for_a_thread": """
import threading, time
thread = threading.Thread(target=time.sleep, args=(1e6,), daemon=True)
thread.start()
thread.join()
""",
    "hangs_at_exit": "import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,)).start()",
    "slow_but_moving": """
import importlib, sys, time
for number in range(100000):
    time.sleep(0.1)
    importlib.import_module(f'torch.part_{number}')
""",
    "grows_a_thread_pool": """
import threading, time
for _ in range(5):
    threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
""",
    "too_many_threads": 'raise RuntimeError("can\'t start new thread")',
    "raises": "raise ValueError('CUDA_HOME is set to a folder that does not exist')",
}


def package(folder: Path, fault: str) -> Path:
    """A folder that holds the broken package `torch`, for PYTHONPATH."""
    home = folder / fault
    (home / "torch").mkdir(parents=True)
    (home / "torch" / "__init__.py").write_text(FAULTS[fault], "utf-8")
    (home / "torch" / "nn.py").write_text("from torch import Linear\n", "utf-8")
    if fault == "slow_but_moving":
        for number in range(200):
            (home / "torch" / f"part_{number}.py").write_text("", "utf-8")
    return home
