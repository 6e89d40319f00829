import json
import math
import random
import re
import warnings
from dataclasses import replace
from datetime import UTC, datetime

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from tuning.page import SearchFacts, search_page
from tuning.report import TrialRecord

pytestmark = pytest.mark.thorough  # seconds each: not before every commit

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e\"'&"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m\\u202e&quot;&#x27;&amp;"
RATE, CLICK, BUY = "training.learning_rate", "weighting.weights.click", "weighting.weights.purchase"
SPACE = {
    RATE: FloatDistribution(1e-4, 1e-1, log=True),
    "model.width": IntDistribution(16, 128, step=16),
    "model.backbone.kind": CategoricalDistribution(["gru", "transformer"]),
    "model.dropout": CategoricalDistribution([None, 0.1, 0.2]),
    "tasks.click.calibrated": CategoricalDistribution([True, False]),
    CLICK: FloatDistribution(0.1, 10.0, log=True),
    BUY: FloatDistribution(0.1, 10.0, log=True),
}
HEADS = {"model.backbone[transformer].heads": IntDistribution(1, 8)}
EPOCHS = 10


def draw(random_state, space):
    found = {}
    for path, known in space.items():
        if isinstance(known, CategoricalDistribution):
            found[path] = random_state.choice(known.choices)
        elif isinstance(known, IntDistribution):
            found[path] = random_state.randrange(known.low, known.high + 1, known.step)
        else:
            found[path] = math.exp(random_state.uniform(math.log(known.low), math.log(known.high)))
    return found


def quality(values, epoch):
    off = abs(math.log10(values[RATE]) + 2.5) + 0.3 * abs(math.log10(values[CLICK] / values[BUY]) - 0.3)
    return 0.78 - 0.05 * off - 0.2 * math.exp(-epoch / 2)


def trial(number, values, status, random_state):
    """Return the record, the curve and Optuna's trial of one training."""
    epochs = {"finished": EPOCHS, "stopped": random_state.choice([1, 3]), "failed": 0}[status]
    curve = [(epoch, quality(values, epoch) + random_state.gauss(0, 0.004)) for epoch in range(1, epochs + 1)]
    best = max(curve, key=lambda point: point[1], default=(None, None))
    reason = "ValueError: loss is nan\nsee the log" if status == "failed" else None
    record = TrialRecord(number, values, status, best[1], best[0], epochs, 12.3 * epochs + 1, reason)
    state = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}[status]
    return record, curve, state


def facts(number=36, objectives=("click.auc",), space=SPACE, statuses=None, **more):
    random_state = random.Random(0)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"][: len(objectives)])
    records, curves = [], {}
    for at in range(number):
        values = draw(random_state, space)
        values |= draw(random_state, HEADS) if values.get("model.backbone.kind") == "transformer" else {}
        chosen = random_state.choices(["finished", "stopped", "failed"], [6, 4, 1])[0] if at else "finished"
        record, curves[at], state = trial(at, values, (statuses or {}).get(at, chosen), random_state)
        records.append(record)
        found = [record.value, record.seconds * values.get("model.width", 64) / 64, record.seconds][: len(objectives)]
        known = {path: (space | HEADS)[path] for path in values}
        is_complete = state == TrialState.COMPLETE
        study.add_trial(
            create_trial(state=state, values=found if is_complete else None, params=values, distributions=known)
        )
    ended = [record for record in records if record.status == "finished"]
    made = SearchFacts(
        project="shop",
        study_id="20260301-101112",
        created=datetime(2026, 3, 1, 10, 11, tzinfo=UTC),
        facts={"dataset": "shop/0007", "searcher": "TPE", "scheduler": "asha", "seed": "0"},
        objectives=objectives,
        minimised=(False, True, True)[: len(objectives)],
        records=records,
        curves=curves,
        study=study,
        best=max(ended, key=lambda record: record.value).number if ended else None,
        config="num_trials: 36\nmetric: click.auc\n",
        place="store/studies/shop/20260301-101112",
    )
    return replace(made, **more)


def figures(text: str) -> dict:
    return json.loads(re.search(r'id="facts">(.*?)</script>', text)[1])


def body(text: str) -> str:
    return text[: text.index("<script")]


def card(text: str, title: str) -> str:
    return body(text)[text.index(f"<h2>{title}</h2>") :].partition("</section>")[0]


def rows(text: str) -> list[list[str]]:
    found = re.findall(r"<tr>(.*?)</tr>", card(text, "Trials"))
    return [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in found]


def tiles(text: str) -> dict[str, str]:
    return {name: value for value, name in re.findall(r'class="tile"><b>(.*?)</b><span>(.*?)</span>', text)}


PLOTS = ("history", "importances", "curves", "parallel", "slice-0", "slice-1", "contour")


@pytest.fixture(scope="module")
def made():
    return facts()


@pytest.fixture(scope="module")
def page(made):
    return search_page(made)


def test_every_plot_has_its_place_and_its_data(page):
    assert list(figures(page)) == [f"figure-{name}" for name in PLOTS]
    assert re.findall(r'class="plot" id="plot-([^"]*)"', page) == list(figures(page))
    assert 'class="empty"' not in page


def test_headlines_set_the_best_beside_the_default_config(made, page):
    best, default = made.records[made.best], made.records[0]
    counts = [sum(record.status == status for record in made.records) for status in ("finished", "stopped", "failed")]
    trained = sum(record.epochs for record in made.records)
    share = f"{100 * trained / 360:.0f} % of 36 trials of 10 epochs"
    assert tiles(page) == {
        f"click.auc of the best, trial {made.best}, epoch {best.best_epoch}; higher is better": f"{best.value:.4g}",
        "click.auc of the default config, trial 0": f"{default.value:.4g}",
        "trials finished / stopped / failed": " / ".join(map(str, counts)),
        f"epochs trained, {share}": f"{trained} of 360",
    }
    longer = tiles(search_page(replace(made, most_epochs=20)))
    assert any(name.endswith("36 trials of 20 epochs") for name in longer)
    assert "which no other trial beats" in search_page(replace(made, best=0))


def test_a_kind_of_trials_is_one_curve_that_the_legend_hides(made, page):
    drawn = {trace["name"]: trace for trace in figures(page)["figure-curves"]["data"]}
    stopped = [record.number for record in made.records if record.status == "stopped"]
    finished = [record.number for record in made.records if record.status == "finished"]
    assert list(drawn) == [
        *(f"finished ({len(finished) - 2})", f"stopped ({len(stopped)})"),
        *("default config (trial 0)", f"winner (trial {made.best})"),
    ]
    trace = drawn[f"stopped ({len(stopped)})"]
    assert sorted({number for number in trace["customdata"] if number is not None}) == stopped
    assert trace["x"].count(None) == len(stopped)
    assert trace["marker"]["symbol"] == "x-thin"
    assert len({json.dumps([one["line"], one["opacity"]]) for one in drawn.values()}) == 4


def test_history_keeps_the_numbers_of_trials(made, page):
    drawn = {trace["name"]: trace for trace in figures(page)["figure-history"]["data"]}
    assert list(drawn) == ["best so far", "complete", "stopped", "default config", "winner"]
    known = {record.number: record.value for record in made.records if record.status == "finished"}
    assert dict(zip(drawn["complete"]["x"], drawn["complete"]["y"], strict=True)) == known
    assert drawn["best so far"]["y"][-1] == drawn["winner"]["y"][0] == max(known.values())


def test_plots_call_parameters_by_short_names_and_choices_as_yaml_does(page):
    drawn = figures(page)
    shown = drawn["figure-parallel"]["layout"]["xaxis"]["ticktext"]
    assert shown == [
        "click.auc",
        "calibrated",
        "click",
        "dropout",
        "heads",
        "kind",
        "learning_rate",
        "purchase",
        "width",
    ]
    axes = {one["title"]["text"]: one for part in ("0", "1") for one in axes_of(drawn[f"figure-slice-{part}"])}
    assert axes["dropout"]["categoryarray"] == ["null", "0.1", "0.2"]
    assert axes["calibrated"]["categoryarray"] == ["true", "false"]
    assert axes["learning_rate"]["type"] == "log"
    assert (axes["learning_rate"]["dtick"], axes["click"]["dtick"]) == (1, "D2")
    (bars,) = drawn["figure-importances"]["data"]
    assert bars["y"][-1] == "purchase"
    assert set(bars["y"]) == set(shown[1:])


def axes_of(figure: dict) -> list[dict]:
    return [one for name, one in figure["layout"].items() if name.startswith("xaxis")]


def test_the_contour_is_of_task_weights_where_two_are_searched(made, page):
    contour = figures(page)["figure-contour"]
    titles = {contour["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")}
    assert titles == {"click", "purchase"}
    fixed = {path: path.replace("weighting", "weighting[fixed]") for path in (CLICK, BUY)}
    assert figures(search_page(relabelled(made, fixed)))["figure-contour"]["layout"] == contour["layout"]
    drawn = search_page(relabelled(made, {CLICK: "weighting.kept", BUY: "weighting.other"}))
    assert "over purchase and click" in card(page, "Contour") or "over click and purchase" in card(page, "Contour")
    assert "learning_rate" in card(drawn, "Contour")


def relabelled(made: SearchFacts, names: dict[str, str]) -> SearchFacts:
    """Return the facts with other paths, and with other texts among the choices."""

    def under(found: dict) -> dict:
        return {names.get(path, path): names.get(value, value) for path, value in found.items()}

    def choices(known):
        if not isinstance(known, CategoricalDistribution):
            return known
        return CategoricalDistribution([names.get(choice, choice) for choice in known.choices])

    study = optuna.create_study(directions=made.study.directions)
    for one in made.study.trials:
        spaces = {names.get(path, path): choices(known) for path, known in one.distributions.items()}
        study.add_trial(
            create_trial(state=one.state, values=one.values, params=under(one.params), distributions=spaces)
        )
    records = [replace(record, values=under(record.values)) for record in made.records]
    return replace(made, study=study, records=records)


def test_the_table_has_every_trial_with_what_it_is_sorted_by(made, page):
    header, *lines = rows(page)
    columns = ["trial", "status", "click.auc", "best epoch", "epochs", "seconds"]
    names = ["learning_rate", "width", "kind", "dropout", "calibrated", "click", "purchase", "heads"]
    assert header == [*columns, *names, "reason"]
    assert len(lines) == len(made.records)
    assert lines[0][0] == f"{made.best} winner"
    assert "0 default" in {line[0] for line in lines}
    ended = [made.records[int(line[0].split()[0])] for line in lines]
    values = [record.value for record in ended if record.value is not None]
    assert values == sorted(values, reverse=True)
    assert all(line[-1] == ("ValueError: loss is nan…" if line[1] == "failed" else "") for line in lines)
    assert "see the log" in card(page, "Trials")
    assert {line[header.index("dropout")] for line in lines} == {"null", "0.1", "0.2"}
    assert "" in {line[header.index("heads")] for line in lines}
    cells = card(page, "Trials")
    assert cells.count('<button type="button"') == len(header)
    assert f'title="{RATE}"' in cells
    assert f'<data value="{made.records[0].value!r}">' in cells
    assert "sortBy" in page


def test_more_objectives_have_pareto_fronts_and_one_first_objective():
    made = facts(objectives=("click.auc", "seconds"))
    page = search_page(made)
    drawn = figures(page)
    assert list(drawn) == [f"figure-{name}" for name in (*PLOTS, "pareto1")]
    front = next(one for one in drawn["figure-pareto1"]["data"] if one["name"] == "Pareto front")
    best = {trial.values[0]: trial.values[1] for trial in made.study.best_trials}
    assert dict(zip(front["x"], front["y"], strict=True)) == best
    assert [one["name"] for one in drawn["figure-importances"]["data"]] == ["click.auc", "seconds"]
    assert rows(page)[0].count("seconds") == 1
    three = search_page(facts(objectives=("click.auc", "cost", "seconds")))
    assert {"figure-pareto1", "figure-pareto2"} <= set(figures(three))


def test_a_minimised_objective_turns_the_scale_around():
    made = facts()
    study = optuna.create_study(direction="minimize")
    study.add_trials(made.study.trials)
    lowest = min((one for one in study.trials if one.values), key=lambda one: one.value).number
    page = search_page(replace(made, study=study, minimised=(True,), best=lowest))
    *lines, bar = figures(page)["figure-parallel"]["data"]
    assert bar["marker"]["reversescale"] is True
    assert lines[-1]["line"]["color"] == "--scale 1.000"
    assert lines[-1]["y"][0] == 0
    assert "lower is better" in next(iter(tiles(page)))


def test_hostile_text_is_shown_and_none_of_it_runs(made):
    names = {RATE: HOSTILE, "gru": HOSTILE}
    page = search_page(
        replace(
            relabelled(made, names),
            project=HOSTILE,
            facts={HOSTILE: HOSTILE},
            objectives=(HOSTILE,),
            config=f"a: {HOSTILE}\nb: 1",
            place=HOSTILE,
        )
    )
    for bad in ("<script>alert", "\x1b", "\u202e"):
        assert bad not in page
    assert page.count("<script") == page.count("</script>") == 3
    assert ESCAPED in card(page, "Trials")
    drawn = json.dumps(list(figures(page).values()))
    assert "<script" not in drawn
    texts = figures(page)["figure-parallel"]["layout"]["xaxis"]["ticktext"]
    assert texts.count(ESCAPED) == 2  # the objective and a parameter


def test_it_asks_the_network_for_nothing(page):
    for word in (" src=", "href=", "url(", "@import", "http:", "https:"):
        assert word not in body(page)
    assert "default-src 'none'" in page


def test_where_there_is_nothing_to_draw_it_says_why():
    failed = search_page(facts(3, statuses=dict.fromkeys(range(3), "failed")))
    assert figures(failed) == {}
    assert failed.count('class="empty"') == 6
    assert tiles(failed)["no trial ended well"] == "–"
    assert "No trial has validated an epoch." in failed
    alone = search_page(facts(1))
    assert list(figures(alone)) == ["figure-history", "figure-curves"]
    assert "Only one trial is complete" in card(alone, "Slices")
    assert "Importances take 5 complete trials; there is 1." in alone
    none = facts(0)
    assert "No trial was started." in search_page(none)
    pair = search_page(facts(2, statuses={1: "finished"}))
    assert {"figure-parallel", "figure-slice-0"} <= set(figures(pair))
    assert "at least 3 trials" in card(pair, "Contour")


def test_equal_and_infinite_values_are_no_ground_for_importances():
    made = facts(12, statuses=dict.fromkeys(range(12), "finished"))
    equal, study = [replace(record, value=0.5) for record in made.records], optuna.create_study(direction="maximize")
    for one in made.study.trials:
        value = math.inf if one.number == 3 else 0.5
        study.add_trial(create_trial(value=value, params=one.params, distributions=one.distributions))
    page = search_page(replace(made, records=equal, study=study))
    assert "have the same value, so no parameter made a difference" in card(page, "Importance of the parameters")
    assert "figure-contour" in figures(page)
    shown = next(one for one in figures(page)["figure-history"]["data"] if one["name"] == "complete")
    assert 3 not in shown["x"]


def test_a_choice_that_reads_like_another_stays_apart():
    study = optuna.create_study(direction="maximize")
    known = CategoricalDistribution([True, "true", "a" * 40, "a" * 40 + "b"])
    records = []
    for number in range(8):
        value = known.choices[number % 4]
        study.add_trial(create_trial(value=number / 10, params={"x": value}, distributions={"x": known}))
        records.append(TrialRecord(number, {"x": value}, "finished", number / 10, 1, 1, 1.0))
    curves = {number: [(1, number / 10)] for number in range(8)}
    page = search_page(facts(0, records=records, study=study, curves=curves, best=7))
    (axis,) = axes_of(figures(page)["figure-slice-0"])
    assert len(set(axis["categoryarray"])) == 4


def test_many_trials_make_no_large_page_and_optuna_says_nothing(caplog, capsys):
    many = {f"model.part{at}.rate": FloatDistribution(0.1, 1.0, log=True) for at in range(12)}
    made = facts(200, space=SPACE | many)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caplog.clear()
        capsys.readouterr()
        page = search_page(made)
    assert not caplog.records
    assert capsys.readouterr().err == ""
    own = len(page) - len(re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1])
    assert own < 1_500_000
    assert "The 12 most important parameters of 20." in card(page, "Slices")
    assert "The 10 most important parameters of 20." in card(page, "Parallel coordinates")
    assert len([name for name in figures(page) if name.startswith("figure-slice")]) == 3
    (bars,) = figures(page)["figure-importances"]["data"]
    assert len(bars["x"]) == 12
    assert bars["x"] == sorted(bars["x"])
    assert sum(bars["x"]) < 1
