"""The comparisons of ci/hub-faithful, which see. Takes the folder of the two example programs."""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

examples = Path(sys.argv[1]).resolve()
server = subprocess.Popen(
    [examples / "hub_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
)
endpoint, commit = server.stdout.readline().split()
# huggingface_hub reads its settings when it is imported.
os.environ["HF_ENDPOINT"] = endpoint
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hub-faithful-")

import huggingface_hub  # noqa: E402
from huggingface_hub import HfApi, hf_hub_download  # noqa: E402
from huggingface_hub import errors  # noqa: E402

FILES = [
    ("model", "timm/leaf.in1k", "main", "config.json"),
    ("model", "timm/leaf.in1k", "main", "model.safetensors"),
    ("model", "timm/leaf.in1k", "v1.0", "sub folder/a+b.txt"),
    ("model", "timm/leaf.in1k", commit, "config.json"),
    ("dataset", "org/leaves", "main", "data/train.parquet"),
]
checked = 0


def check(condition, what):
    global checked
    if not condition:
        sys.exit(f"hub-faithful: {what}")
    checked += 1


def tree(cache):
    """Names, and contents or targets of links, of everything that counts in a cache."""
    found = {}
    for path in sorted(Path(cache).rglob("*")):
        name = path.relative_to(cache).as_posix()
        if ".locks" in name or name.startswith("CACHEDIR") or "/trees" in name:
            continue
        if path.is_symlink():
            found[name] = "-> " + os.readlink(path)
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def ours(cache, kind, repo, revision, file, *more):
    program = [examples / "fetch", endpoint, cache, kind, repo, revision, file, *more]
    said = subprocess.run(program, check=True, capture_output=True, text=True).stdout.strip()
    path, sha256, received = said.rsplit(" ", 2)
    return path, sha256, int(received)


def python(cache, kind, repo, revision, file, **more):
    return hf_hub_download(repo, file, repo_type=kind, revision=revision, cache_dir=cache, **more)


def raises(expected, repo, file, **more):
    try:
        hf_hub_download(repo, file, cache_dir=tempfile.mkdtemp(), **more)
    except expected as error:
        check(type(error) is expected, f"{repo}/{file}: {type(error).__name__} instead of {expected.__name__}")
    else:
        sys.exit(f"hub-faithful: {repo}/{file} came, expected {expected.__name__}")


with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
    # Python downloads from the server; ours finds those files without a network.
    for entry in FILES:
        path = python(one, *entry)
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        found = ours(one, *entry, "offline")
        check(found == (path, digest, 0), f"{entry}: Python has {path} {digest}, ours finds {found}")
    # Ours downloads from the server; Python finds those files without a network.
    for entry in FILES:
        path, digest, received = ours(other, *entry)
        size = os.path.getsize(path)
        again = any(entry[:2] + entry[3:] == before[:2] + before[3:] for before in FILES[: FILES.index(entry)])
        check(received == (0 if again else size), f"{entry}: {received} bytes of {size} came")
        check(python(other, *entry, local_files_only=True) == path, f"{entry}: Python does not find {path}")
        check(python(other, *entry) == path, f"{entry}: Python would download it again")
    check(tree(one) == tree(other), f"the caches differ:\n{tree(one)}\n{tree(other)}")
    check(len(tree(one)) > 10, "the caches are nearly empty")

# A part that ours, or an older version of Python's library, left is resumed by ours and left alone by Python.
with tempfile.TemporaryDirectory() as cache:
    entry = FILES[1]
    path, digest, _ = ours(cache, *entry)
    blob = Path(path).resolve()
    part = blob.with_name(blob.name + ".incomplete")
    part.write_bytes(blob.read_bytes()[:1_234_567])
    size = blob.stat().st_size
    blob.unlink()
    check(ours(cache, *entry) == (path, digest, size - 1_234_567), "the part was not resumed")

# What the server says of repositories, and how it refuses.
api = HfApi(endpoint=endpoint)
about = api.model_info("timm/leaf.in1k", revision="v1.0")
names = sorted(file.rfilename for file in about.siblings)
check(about.sha == commit, "the API names another commit")
check(names == ["config.json", "model.safetensors", "sub folder/a+b.txt"], f"the API names other files: {names}")
check(api.dataset_info("org/leaves").siblings[0].rfilename == "data/train.parquet", "the API lacks the data's file")
raises(errors.RepositoryNotFoundError, "timm/absent", "config.json")
raises(errors.RepositoryNotFoundError, "timm/absent", "config.json", token="hf_any")
raises(errors.RevisionNotFoundError, "timm/leaf.in1k", "config.json", revision="v2")
raises(errors.RemoteEntryNotFoundError, "timm/leaf.in1k", "absent.json")
raises(errors.GatedRepoError, "org/gated", "a.txt")
raises(errors.GatedRepoError, "org/gated", "a.txt", token="hf_wrong")
raises(errors.RepositoryNotFoundError, "org/secret", "a.txt", token="hf_wrong")
for repo in ("org/gated", "org/secret"):
    path = hf_hub_download(repo, "a.txt", cache_dir=tempfile.mkdtemp(), token="hf_right")
    check(Path(path).read_text() == repo.split("/")[1] + "\n", f"{repo}: wrong content")

server.stdin.close()
server.wait()
print(f"hub-faithful: {checked} comparisons hold with huggingface_hub {huggingface_hub.__version__}")
