"""Building kernels: one build per text, a folder that is the user's alone, one OpenMP runtime, and plain errors."""

import ctypes
import hashlib
import logging
import math
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from downslope._checks import ArgumentError
from downslope._engine import build

SOURCE = 'extern "C" int answer() { return 42; }\n'
PARALLEL = """
extern "C" int threads() {
    int n = 0;
#pragma omp parallel num_threads(2) reduction(+ : n)
    n += 1;
    return n;
}
"""

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("DOWNSLOPE_CACHE", str(tmp_path / "cache"))
    build._temporary.cache_clear()
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """A compiler that counts its starts; returns a function that says how many there were."""
    log, script = tmp_path / "starts", tmp_path / "bin" / "g++"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {shutil.which("g++") or build.compiler().path} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CXX", raising=False)
    return lambda: len(log.read_text().splitlines()) if log.exists() else 0


def forget():
    """What a new process knows of loaded kernels."""
    build._loaded.clear()


def code_of(library):
    """Without what stands at the end: the time that building took, and the hash."""
    return library[: -build._DIGEST_BYTES - build._MARK.size]


def libraries(folder):
    return sorted(folder.glob("*.so"))


def test_one_build_per_source_and_none_with_a_warm_cache(cache, counted):
    assert build.load(SOURCE).answer() == 42
    assert build.load(SOURCE) is build.load(SOURCE)
    assert counted() == 1
    forget()
    assert build.load(SOURCE).answer() == 42
    assert counted() == 1
    assert build.load(SOURCE.replace("42", "43")).answer() == 43
    assert counted() == 2
    assert len(libraries(cache)) == 2
    assert libraries(cache)[0].with_suffix(".cpp").read_text().startswith('extern "C"')


def test_what_a_library_took_to_build_is_known_whenever_it_was_built(cache):
    with build.watched() as first:
        build.load(SOURCE)
    forget()
    with build.watched() as later, build.watched() as inner:
        build.load(SOURCE)
    ((name, seconds),) = first.items()
    assert seconds > 0.01  # a compiler was started
    assert later == inner == first
    forget()
    (library,) = libraries(cache)
    assert library.stem == name
    code = code_of(library.read_bytes())  # as a version before this one kept it
    library.unlink()  # the old one is still mapped
    library.write_bytes(code + hashlib.sha256(code).digest())
    library.chmod(0o600)
    with build.watched() as older:
        assert build.load(SOURCE).answer() == 42
    assert older == {name: None}


def test_flags_compiler_and_cpu_are_part_of_the_name(cache, counted, monkeypatch):
    build.load(SOURCE)
    monkeypatch.setattr(build, "_cpu", lambda: "another machine")
    build.load(SOURCE)
    monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, "-g"))
    build.load(SOURCE)
    script = build.compiler().path
    script.write_text(script.read_text() + "# a new version\n")
    build.load(SOURCE)
    assert counted() == len(libraries(cache)) == 4


def test_folder_and_files_are_the_users_alone(cache):
    build.load(SOURCE)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in cache.iterdir()} == {0o600}


def test_places_named_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DOWNSLOPE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    build.load(SOURCE)
    assert len(libraries(tmp_path / "home/.cache/downslope/kernels")) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    build.load(SOURCE)
    assert len(libraries(tmp_path / "xdg/downslope/kernels")) == 1


@pytest.mark.parametrize("what", ["folder", "library"])
@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_refuses_what_others_may_write(cache, what, mode):
    build.load(SOURCE)
    forget()
    path = cache if what == "folder" else libraries(cache)[0]
    path.chmod(mode)
    with pytest.raises(ArgumentError, match=re.escape(f"{path} must be owned by user")) as caught:
        build.load(SOURCE)
    assert f"mode 0{mode:o}" in str(caught.value)
    assert "DOWNSLOPE_CACHE" in str(caught.value)


def test_refuses_what_another_user_owns(cache, monkeypatch):
    build.load(SOURCE)
    forget()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ArgumentError, match=f"must be owned by user 12345.*got 'owner {os.getuid()}"):
        build.load(SOURCE)


def test_refuses_links(cache, tmp_path):
    build.load(SOURCE)
    forget()
    library = libraries(cache)[0]
    moved = library.rename(tmp_path / "elsewhere.so")
    library.symlink_to(moved)
    with pytest.raises(ArgumentError, match="a link"):
        build.load(SOURCE)
    library.unlink()
    target = cache.rename(tmp_path / "elsewhere")
    cache.symlink_to(target)
    with pytest.raises(ArgumentError, match="a link"):
        build.load(SOURCE)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:99] + b])
def test_damaged_library_is_built_again(cache, counted, damage):
    build.load(SOURCE)
    forget()
    library = libraries(cache)[0]
    whole = library.read_bytes()
    library.unlink()  # the file that this process has mapped stays as it is
    library.write_bytes(damage(whole))
    library.chmod(0o600)
    assert build.load(SOURCE).answer() == 42
    assert counted() == 2
    assert code_of(library.read_bytes()) == code_of(whole)


def test_processes_build_at_the_same_time(cache):
    code = f"""
from downslope._engine import build
print([build.load({PARALLEL!r} + f"// {{i % 3}}").threads() for i in range(6)])
"""
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate()[0].strip() for run in runs] == [str([2] * 6)] * 2
    assert len(libraries(cache)) == 3
    assert not list(cache.glob("build-*"))


def test_what_a_killed_build_left_is_removed_when_it_is_old(cache):
    build.load(SOURCE)
    old, new = cache / "build-old", cache / "build-new"
    for left in old, new:
        left.mkdir()
        (left / "library").write_text("half")
    os.utime(old, (0, 0))
    build.load(SOURCE + "// again")
    assert not old.exists()
    assert new.exists()


def test_kernels_that_were_not_used_for_longest_make_room(cache, monkeypatch):
    sources = [SOURCE.replace("42", str(n)) for n in range(4)]
    for age, source in enumerate(sources[:3]):
        build.load(source)
        newest = max(libraries(cache), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (1000 - age, 1000 - age))  # the first is the most recent, so far
    size = sum(path.stat().st_size for path in cache.iterdir()) // 3
    forget()
    build.load(sources[2])  # the oldest is used again
    monkeypatch.setattr(build, "_KEPT_BYTES", 2 * size + size // 2)
    build.load(sources[3])
    kept = [path.with_suffix(".cpp").read_text() for path in libraries(cache)]
    assert sorted(kept) == sorted([sources[2], sources[3]])
    assert len(list(cache.iterdir())) == 4


def test_a_killed_build_leaves_no_library(cache, tmp_path, monkeypatch):
    script = tmp_path / "killed"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(build.BuildError, match="exit status -9"):
        build.load(SOURCE)
    assert not libraries(cache)


def test_error_names_the_compilers_first_error_and_the_source(cache):
    with pytest.raises(build.BuildError, match="cannot build the kernel .*'oops' was not declared") as caught:
        build.load('#warning "not an error yet"\nextern "C" int f() { return oops; }\nint g() { return later; }\n')
    (text,) = cache.glob("*.cpp")
    assert str(text) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert build.compiler() is None
    with pytest.raises(build.NoCompiler, match=r"install g\+\+"):
        build.load(SOURCE)
    monkeypatch.setenv("CXX", "c++-of-nowhere -m64")
    with pytest.raises(build.NoCompiler, match=r"\$CXX names 'c\+\+-of-nowhere -m64'"):
        build.load(SOURCE)


def test_compiler_of_the_environment_may_have_arguments(counted, monkeypatch):
    monkeypatch.setenv("CXX", "g++ -DANSWER=7")
    assert build.load('extern "C" int answer() { return ANSWER; }').answer() == 7
    assert build.compiler().command[1:] == ("-DANSWER=7",)
    assert re.search(r"\d+\.\d+", build.compiler().version)


def test_a_folder_that_cannot_be_written_is_replaced_and_said_once(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DOWNSLOPE_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING, "downslope"):
        assert build.load(SOURCE).answer() == 42
        assert build.load(SOURCE + "// more").answer() == 42
    (said,) = caplog.messages
    assert "set DOWNSLOPE_CACHE" in said
    folder = build._folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(libraries(folder)) == 2
    shutil.rmtree(folder)


def test_a_kernel_runs_on_torchs_openmp_runtime():
    assert build.load(PARALLEL).threads() == 2
    maps = Path("/proc/self/maps").read_text()
    assert len(set(re.findall(r"/\S*/lib(?:gomp|omp|iomp5)\S*", maps))) == 1
    assert "libgomp" not in maps or len(build._openmp()) == 1


def test_arithmetic_keeps_nan_infinity_and_the_order_of_sums():
    lib = build.load("""
extern "C" void run(const double* x, double* out) {
    out[0] = x[0] != x[0];                 // NaN is not equal to itself
    out[1] = !(x[0] < 1.0) && !(x[0] >= 1.0);
    out[2] = x[1] - x[1] == 0.0;           // not for infinity
    out[3] = (x[2] + x[3]) - x[3];         // 0, not x[2]
    out[4] = x[2] * x[2] - 1.0;            // not fused
    out[5] = 0.0 * x[4];                   // -0
}
""")
    x = (ctypes.c_double * 5)(math.nan, math.inf, 1 + 2.0**-30, 2.0**60, -1.0)
    out = (ctypes.c_double * 6)()
    lib.run(x, out)
    assert list(out)[:4] == [1.0, 1.0, 0.0, 0.0]
    assert out[4] == x[2] * x[2] - 1.0
    assert math.copysign(1.0, out[5]) == -1.0
