"""Archives made here, good and hostile: read whole, or refused whole with nothing left behind."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from stages.core.errors import IntegrityError
from stages.core.unpacking import Limits
from stages.store import archives, decompression, file_kinds, tar_archives

LIMITS = Limits(max_bytes=2**30, max_members=1000, max_ratio=200)
FILES = {
    "cats/1.jpg": os.urandom(3000),
    "cats/empty.jpg": b"",
    "dogs/inner.zip": b"PK\x03\x04 not opened",
    "dogs/ü": b"u",
}
PACK: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tar.xz": lzma.compress,
    "tar.zst": zstandard.compress,
}


def tar_of(files: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info in extra:
            tar.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_of(files: dict[str, bytes], *extra: zipfile.ZipInfo, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for info in extra:
            archive.writestr(info, b"target")
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder for decompressed bytes that must be empty in the end, whatever happens."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


def read(data: bytes, scratch: Path, limits: Limits = LIMITS) -> tuple[dict[str, bytes], list[str]]:
    path = scratch.parent / "archive"
    path.write_bytes(data)
    kind = file_kinds.kind_of(path)
    assert kind in archives.KINDS
    with archives.opened(path, kind, limits, scratch) as archive:
        return {name: archive.read(name) for name in reversed(archive.sizes)}, archive.folders


def refusal(data: bytes, scratch: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(IntegrityError) as caught:
        read(data, scratch, limits)
    assert sorted(path.name for path in scratch.parent.iterdir()) == ["archive", "scratch"]
    return str(caught.value)


@pytest.mark.parametrize("kind", PACK)
def test_tars_come_back(kind: str, scratch: Path) -> None:
    folder = tarfile.TarInfo("./birds")
    folder.type = tarfile.DIRTYPE
    assert read(PACK[kind](tar_of(FILES, folder)), scratch) == (FILES, ["birds"])


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zips_come_back(method: int, scratch: Path) -> None:
    assert read(zip_of(FILES, method=method), scratch) == (FILES, [])


def test_zip_folders_and_names_that_are_utf8_without_saying_so(scratch: Path) -> None:
    data = zip_of({"birds/": b"", "d/ü": b"1"})
    # Clear the flag that says UTF-8, as some tools do.
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.rindex(signature) + at
        data = data[:place] + b"\0\0" + data[place + 2 :]
    assert read(data, scratch) == ({"d/ü": b"1"}, ["birds"])


def test_tar_names_that_are_not_utf8(scratch: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        tar.addfile(tarfile.TarInfo("cats/café"))
    assert read(buffer.getvalue(), scratch) == ({"cats/caf\\xe9": b""}, [])


UNSAFE = ["../x.jpg", "cats/../../x.jpg", "/tmp/x.jpg", "C:/x.jpg", "..\\x.jpg", "cats\\1.jpg"]


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_unsafe_names_refuse_the_whole_archive(pack: Callable[..., bytes], name: str, scratch: Path) -> None:
    message = refusal(pack({**FILES, name: b"evil"}), scratch)
    assert repr(name) in message
    assert "whole archive was refused" in message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cats/" + "a/" * 64 + "1.jpg", "lies in 65 folders; at most 64"),
        ("a/" * 2000 + "1.jpg", "lies in 2,000 folders"),
        ("a/" * 30_000 + "1.jpg", "has a name of 60,005 characters"),  # took 47 s and 3 GB
        ("cats/" + "x" * 5000, "has a name of 5,005 characters"),
    ],
)
@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_folders_in_folders_are_limited(pack: Callable[..., bytes], name: str, said: str, scratch: Path) -> None:
    message = refusal(pack({**FILES, name: b"x"}), scratch)
    assert said in message
    assert len(message) < 1000
    assert "cats/" + "a/" * 63 + "1.jpg" in read(pack({**FILES, "cats/" + "a/" * 63 + "1.jpg": b"x"}), scratch)[0]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_tar_links_and_devices(kind: bytes, scratch: Path) -> None:
    member = tarfile.TarInfo("cats/odd")
    member.type, member.linkname = kind, "cats/1.jpg"
    assert "'cats/odd' is a link" in refusal(tar_of(FILES, member), scratch)


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_zip_links_and_devices(mode: int, scratch: Path) -> None:
    member = zipfile.ZipInfo("cats/odd")
    member.external_attr = (mode | 0o777) << 16
    assert "'cats/odd' is a link" in refusal(zip_of(FILES, member), scratch)


@pytest.mark.parametrize("pack", [tar_of, zip_of])
@pytest.mark.parametrize("names", [("cats/1", "./cats/1"), ("cats/1", "cats//1")])
def test_two_members_of_one_name(pack: Callable[..., bytes], names: tuple[str, str], scratch: Path) -> None:
    assert "name of another member" in refusal(pack(dict.fromkeys(names, b"x")), scratch)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_zip_members_of_the_very_same_name(scratch: Path) -> None:
    assert "name of another member" in refusal(zip_of(FILES, zipfile.ZipInfo("dogs/ü")), scratch)


def test_a_name_that_is_file_and_folder(scratch: Path) -> None:
    assert "name of another member" in refusal(zip_of({"cats/": b"", "cats": b"1"}), scratch)


def test_encrypted_zip(scratch: Path) -> None:
    data = bytearray(zip_of({"cats/1.jpg": b"x"}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert "'cats/1.jpg' is encrypted" in refusal(bytes(data), scratch)


def test_unknown_zip_method(scratch: Path) -> None:
    data = bytearray(zip_of({"cats/1.jpg": b"x"}))
    data[data.index(b"PK\x01\x02") + 10] = 99
    assert "unknown compression method 99" in refusal(bytes(data), scratch)


@pytest.mark.parametrize("kind", [*PACK, "zip"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_cut_short(kind: str, share: float, scratch: Path) -> None:
    whole = zip_of(FILES) if kind == "zip" else PACK[kind](tar_of(FILES))
    if kind == "tar":
        whole = whole.rstrip(b"\0")  # what follows the end's marker may be lost
    assert "damaged or cut short" in refusal(whole[: int(len(whole) * share)], scratch)


def test_a_tar_cut_between_two_members(scratch: Path) -> None:
    whole = tar_of({"cats/1": b"1", "dogs/1": b"2"})
    assert "at byte 1,024" in refusal(whole[:1024], scratch)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
def test_flipped_bits(kind: str, scratch: Path) -> None:
    whole = bytearray(zip_of(FILES) if kind == "zip" else PACK[kind](tar_of(FILES)))
    whole[len(whole) // 3] ^= 0xFF
    assert "damaged or cut short" in refusal(bytes(whole), scratch)


def test_a_damaged_tar_header_in_the_middle_is_not_taken_for_the_end(scratch: Path) -> None:
    whole = bytearray(tar_of({"cats/1": b"1", "dogs/1": b"2"}))
    whole[1024 + 3] ^= 0xFF
    assert "damaged or cut short" in refusal(bytes(whole), scratch)


def test_compressed_but_no_tar(scratch: Path) -> None:
    assert "damaged or cut short" in refusal(gzip.compress(b"hello" * 1000), scratch)


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "tar.zst"])
def test_tar_bombs_are_stopped_while_they_unpack(kind: str, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_archives, "_index", lambda *_: pytest.fail("all of it was unpacked"))
    bomb = PACK[kind](tar_of({"cats/1": bytes(4 * 2**20)}))
    assert "download.max_ratio allows 200" in refusal(bomb, scratch)


def test_zip_bombs_are_stopped_before_they_unpack(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zip_of({"cats/1": bytes(4 * 2**20)})
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("a member was unpacked"))
    assert "download.max_ratio allows 200" in refusal(bomb, scratch)


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_total_size_is_limited(kind: str, scratch: Path) -> None:
    noise = {"cats/1": os.urandom(20_000), "cats/2": os.urandom(20_000)}
    data = zip_of(noise) if kind == "zip" else PACK[kind](tar_of(noise))
    message = refusal(data, scratch, LIMITS._replace(max_bytes=30_000))
    assert "download.max_bytes allows 30,000" in message


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_members_are_limited(pack: Callable[..., bytes], scratch: Path) -> None:
    files = {f"cats/{number}": b"" for number in range(11)}
    assert "max_members allows 10" in refusal(pack(files), scratch, LIMITS._replace(max_members=10))
    assert len(read(pack(files), scratch, LIMITS._replace(max_members=11))[0]) == 11


def test_a_long_member_list_is_refused_before_it_is_parsed(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile.ZipInfo, "_decodeExtra", lambda *_: pytest.fail("an entry was parsed"))
    data = zip_of({f"cats/{number}-{'x' * 200}": b"" for number in range(5000)}, method=zipfile.ZIP_STORED)
    assert "max_members allows 1,000" in refusal(data, scratch)


def test_a_long_list_that_is_read_twice_is_counted_once(scratch: Path) -> None:
    names = [f"cats/{number}-{'x' * 200}" for number in range(4999)]
    data = zip_of(dict.fromkeys([*names, "cats/caf_"], b""), method=zipfile.ZIP_STORED)
    rows, _ = read(data.replace(b"caf_", b"caf\x82"), scratch, LIMITS._replace(max_members=5000))
    assert set(rows) == {*names, "cats/café"}  # \x82 in code page 437, which a zip without a word on it has


@pytest.mark.parametrize("size", [0, 10, 60_000])
def test_a_zip_header_that_lies_about_the_size(size: int, scratch: Path) -> None:
    data = bytearray(zip_of({"cats/1": os.urandom(50_000)}))
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, size)
    assert "damaged or cut short" in refusal(bytes(data), scratch)


def test_a_tar_header_too_long_to_load(scratch: Path) -> None:
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**33
    data = header.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    assert "header is damaged or longer" in refusal(data, scratch)


def test_xz_in_several_streams(scratch: Path) -> None:
    plain = tar_of(FILES)
    assert read(lzma.compress(plain[:1000]) + bytes(8) + lzma.compress(plain[1000:]), scratch)[0] == FILES


def test_xz_that_asks_for_too_much_memory(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompression, "XZ_MEMORY", 2**16)
    assert "Memory usage limit" in refusal(lzma.compress(tar_of(FILES)), scratch)
