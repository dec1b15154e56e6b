from checkout import copy_to, differences, python


def test_the_notebooks_are_clean(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        copy_to(folder)
    python("from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__()", cwd=new)
    changed = differences(old, new, "nbs/**/*.ipynb")
    assert not changed, (
        f"{changed} hold metadata or ids that nbdev_clean removes. Run: nbdev_clean"
    )
