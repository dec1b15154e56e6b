from checkout import copy_to, differences, python, settings


def test_a_fresh_export_changes_nothing(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        copy_to(folder)
    # a module whose notebook is gone must not survive
    for module in (new / settings()["lib_path"]).rglob("*.py"):
        module.unlink()
    python("from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()", cwd=new)
    changed = differences(old, new, f"{settings()['lib_path']}/**/*.py")
    assert not changed, (
        f"{changed} are not what the notebooks export. Run: nbdev_export (and delete what has"
        " no notebook)"
    )
