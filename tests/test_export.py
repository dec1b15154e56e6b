from checkout import copy_to, differences, python, settings

PACKAGE = settings()["lib_path"]


def names_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_fresh_export_changes_nothing(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        copy_to(folder)
    before = names_in(new)
    # a module whose notebook is gone must be found, in a package of the package too
    stale = [f"{PACKAGE}/models/stale.py", f"{PACKAGE}/stale.py"]
    for name in stale:
        (old / name).write_text("x = 1\n", encoding="utf-8")
    by_hand = [new / PACKAGE / name for name in ("__init__.py", "__main__.py")]
    for module in (new / PACKAGE).rglob("*.py"):
        if module not in by_hand:
            module.unlink()
    python(
        "from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()",
        cwd=new,
        PYTHONDONTWRITEBYTECODE="1",
    )
    changed = differences(old, new, f"{PACKAGE}/**/*.py")
    assert set(stale) <= set(changed), "a module without a notebook is not found"
    changed = [name for name in changed if name not in stale]
    assert not changed, (
        f"{changed} are not what the notebooks export. Run: nbdev_export (and delete what has"
        " no notebook)"
    )
    left = sorted(names_in(new) - before)
    assert not left, f"exporting leaves {left} behind"
    assert not sorted(before - names_in(new))
