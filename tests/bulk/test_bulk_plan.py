"""The plan and the manifest of a directory of lists."""

import json

import pytest

from raysys.bulk.plan import PLAN, Plan, begin, finish, finished, part_name
from raysys.data.places import Folder
from raysys.errors import UserError


def plan_of(**changes) -> Plan:
    facts = {"run_id": "r", "weights": "w", "dataset_fingerprint": "d", "asked_before": "none", "users": "u"}
    counts = {"num_users": 25, "unknown_users": 0, "num_items": 9, "unknown_items": 0, "k": 3, "users_per_part": 10}
    return Plan(**{**facts, **counts, "items": None, "exclude_seen": True, **changes})


def test_every_user_is_in_one_part():
    plan = plan_of()
    assert [plan.users_of(part) for part in range(plan.num_parts)] == [slice(0, 10), slice(10, 20), slice(20, 25)]


def test_a_call_goes_on_with_the_parts_that_are_there(tmp_path):
    folder, plan = Folder.open(str(tmp_path)), plan_of()
    assert begin(folder, plan) == set()
    folder.write(part_name(1), b"x")
    assert begin(folder, plan) == {1}
    assert finished(folder) is None
    manifest = finish(folder, plan, 75)
    assert finished(folder) == manifest
    assert (manifest.parts, manifest.rows, manifest.num_users) == (3, 75, 25)


def test_what_killed_calls_leave_is_no_hindrance_and_goes_at_the_end(tmp_path):
    (tmp_path / f".{PLAN}.1.partial").write_text("{")
    folder, plan = Folder.open(str(tmp_path)), plan_of()
    begin(folder, plan)
    (tmp_path / ".part-000001.parquet.2.partial").write_text("half")
    finish(folder, plan, 75)
    assert folder.names() == ["_manifest.json", "_plan.json"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (PLAN, "{}", "none of this raysys"),
        (PLAN, "half", "none of this raysys"),
        ("notes.txt", "x", "holds other files"),
        (PLAN, json.dumps(plan_of(weights="v").model_dump()), "weights: v there, w now"),
    ],
)
def test_a_directory_of_something_else_is_refused(name, content, expected, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=expected):
        begin(Folder.open(str(tmp_path)), plan_of())
    assert [file.name for file in tmp_path.iterdir()] == [name]
