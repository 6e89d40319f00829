import pytest

from raysys.errors import UserError
from tuning.constraints import Constraint, check_constraints

NODE = {"model": {"width": 64, "backbone": {"kind": "sasrec", "num_heads": 4}}, "o": {"rate": 0.01, "table": None}}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("model.width % model.backbone.num_heads == 0", True),
        ("model.width % 5 == 0", False),
        ("model.width + 2 * -1 >= 62", True),
        ("model.width - 1 < model.backbone[sasrec].num_heads", False),
        ("1 < model.backbone.num_heads <= 4", True),
        ("1 < model.backbone.num_heads < 4", False),
        ("o.rate / 2 != 0.005", False),
        ("o.table <= o.rate", True),  # null: the setting is not used
        ("model.backbone[hstu].num_heads > 99", True),
        ("model.nothing > 99", True),
        ("model.width / 0 > 1", False),
        ("model.width % (model.backbone.num_heads - 4) == 0", False),
    ],
)
def test_a_constraint_compares_numbers_of_the_config(text, holds):
    assert Constraint(text).holds(NODE) is holds


def test_a_constraint_knows_its_paths():
    assert Constraint("a.b[c].d * 2 <= e - a.b[c].d").paths == ["a.b[c].d", "e", "a.b[c].d"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.width", "compares nothing"),
        ("model.width <", "not an expression"),
        ("", "not an expression"),
        ("model.width < 3 and o.rate > 1", "compares nothing"),
        ("o.rate in [1, 2]", "allowed are comparisons"),
        ("o.rate is 1", "is is not allowed"),
        ("abs(o.rate) < 1", r"abs\(o.rate\) is not allowed"),
        ("o.rate ** 2 < 1", "not allowed"),
        ("o.rate < True", "True is not allowed"),
        ("o.rate == 'x'", "'x' is not allowed"),
        ("(lambda: 1)() < 2", "not allowed"),
        ("a().b < 2", "not a path"),
        ("a[1].b < 2", "not a path"),
        ("__import__('os').x < 1", "not a path"),
    ],
)
def test_nothing_else_is_read(text, message):
    with pytest.raises(UserError, match=message) as caught:
        Constraint(text)
    assert str(caught.value).startswith("constraints: ")


def test_what_is_no_number_is_refused():
    with pytest.raises(UserError, match=r"model\.backbone\.kind is 'sasrec', not a number"):
        Constraint("model.backbone.kind < 3").holds(NODE)


def test_constraints_are_checked_before_the_search():
    check_constraints([Constraint("model.width >= 64"), Constraint("o.table <= o.rate")], NODE, [])
    with pytest.raises(UserError, match=r"the config has no model\.widht; did you mean 'model\.width'"):
        check_constraints([Constraint("model.widht >= 64")], NODE, [])
    with pytest.raises(UserError, match=r"does not hold in the base \(model\.width is 64\)"):
        check_constraints([Constraint("model.width > 64")], NODE, [])


def test_a_path_of_a_kind_that_the_space_offers_is_known():
    other = {"model": {"backbone": {"kind": "hstu", "depth": 2}}}
    constraint = Constraint("model.backbone[hstu].depth < 3")
    check_constraints([constraint], NODE, [other])
    with pytest.raises(UserError, match="the config has no"):
        check_constraints([constraint], NODE, [])
