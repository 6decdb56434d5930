"""The words of problems, their places and their order."""

from __future__ import annotations

import pytest

from tests.recipes import HEAD, problems_of, stage_problem


def test_five_mistakes_are_five_problems():
    problems = problems_of("""\
version: 1
name: five
model: lenet5
stages:
  - type: prune
    method: magnitud
    sparsty: 0.8
    begin: 80%
  - type: qat
    weight_bits: 9
export:
  - target: edge-tpo
""")
    assert [problem.where for problem in problems] == [
        "recipe.yaml:6 stages[0].method",
        "recipe.yaml:7 stages[0].sparsty",
        "recipe.yaml:8 stages[0].begin",
        "recipe.yaml:10 stages[1].weight_bits",
        "recipe.yaml:12 export[0].target",
    ]
    assert [problem.fix for problem in problems] == [
        "did you mean 'magnitude'?",
        "did you mean 'sparsity'?",
        "begin earlier or end later",
        "for example `weight_bits: 8`",
        "did you mean 'edge-tpu'?",
    ]
    assert problems[0].found == "unknown criterion 'magnitud'"
    assert problems[1].found == "unknown key 'sparsty'"
    assert problems[2].found == "begin 80%, end 75%"
    assert problems[3].expected == "a whole number from 2 to 8"
    assert (
        problems[4].expected == "one of: edge-cpu, edge-tpu, ethos-u55, ethos-u65, ethos-u85, micro"
    )


def test_duplicate_keys_come_with_the_rest():
    problems = problems_of(HEAD + "name: again\nstages: [{type: qat, epochs: 0}]\n")
    assert [problem.where for problem in problems] == [
        "recipe.yaml:4 name",
        "recipe.yaml:5 stages[0].epochs",
    ]


@pytest.mark.parametrize(
    ("text", "where", "found", "expected", "fix"),
    [
        (
            "{type: prun, epochs: 0}",
            ".type",
            "'prun'",
            "one of: cluster, distill, prune, ptq, qat, shrink",
            "did you mean 'prune'?",
        ),
        ("{tpye: qat}", ".tpye", "unknown key 'tpye'", "the key 'type'", "did you mean 'type'?"),
        (
            "{epochs: 3}",
            "",
            "no `type`",
            "one of: cluster, distill, prune, ptq, qat, shrink",
            "for example `type: cluster`",
        ),
        (
            "prune",
            "",
            "'prune'",
            "a mapping with `type`, one of: cluster, distill, prune, ptq, qat, shrink",
            'for example `{"type": "qat"}`',
        ),
        (
            "{type: qat, epochs: '3'}",
            ".epochs",
            "'3'",
            "a whole number of at least 1",
            "remove the quotes: `epochs: 3`",
        ),
        (
            "{type: qat, epochs: true}",
            ".epochs",
            "true",
            "a whole number of at least 1",
            "for example `epochs: 1`",
        ),
        (
            "{type: qat, learning_rate: .inf}",
            ".learning_rate",
            "inf",
            "a number greater than 0",
            "for example `learning_rate: 0.0001`",
        ),
        (
            "{type: prune, sparsity: 1}",
            ".sparsity",
            "1",
            "a number from 0 to 1 (1 excluded) or a mapping with the keys: "
            "initial, final, schedule, power",
            "for example `sparsity: 0.8`",
        ),
        (
            "{type: prune, sparsity: {final: 1}}",
            ".sparsity.final",
            "1",
            "a number from 0 to 1 (1 excluded)",
            "for example `final: 0.8`",
        ),
        (
            "{type: prune, sparsity: {final: 0.5, schedule: constnt}}",
            ".sparsity.schedule",
            "'constnt'",
            "one of: constant, polynomial",
            "did you mean 'constant'?",
        ),
        (
            "{type: prune}",
            ".sparsity",
            "no `sparsity`",
            "a number from 0 to 1 (1 excluded), or a mapping with `final`",
            "add `sparsity: 0.8`",
        ),
        (
            "{type: prune, granularity: 2:4, sparsity: 0.5}",
            ".sparsity",
            "0.5",
            "no `sparsity` with 2:4: at most 2 of every 4 weights are kept",
            "remove `sparsity`",
        ),
        (
            "{type: prune, granularity: 2:4, scope: global}",
            ".scope",
            "'global'",
            "layer: 2:4 ranks within M weights",
            "write `scope: layer`",
        ),
        (
            "{type: prune, sparsity: {initial: 0.9, final: 0.5}}",
            ".sparsity.final",
            "initial 0.9, final 0.5",
            "initial not above final",
            "exchange the two, or leave `initial` out",
        ),
        (
            "{type: prune, sparsity: 0.5, begin: 3}",
            ".begin",
            "3",
            "a number with a unit: `3ep` (epochs), `100st` (whole steps) or `75%` (at most 100%)",
            "write `3ep` for epochs, or `3st` for steps",
        ),
        (
            "{type: qat, targets: 're:conv.*'}",
            ".targets",
            "'re:conv.*'",
            "a list",
            'for example `targets: ["type:Dense", "re:conv.*"]`',
        ),
        (
            "{type: qat, name: ../x}",
            ".name",
            "'../x'",
            "letters, digits, `.`, `_` and `-`, a letter or a digit first, at most 100",
            "for example `lenet5-2of4`: it becomes the name of a file or folder",
        ),
        (
            "{type: qat, gate: {max_drp: 0.1}}",
            ".gate.max_drp",
            "unknown key 'max_drp'",
            "one of: max_drop, on_fail",
            "did you mean 'max_drop'?",
        ),
    ],
)
def test_the_words_of_a_problem(text, where, found, expected, fix):
    problem = stage_problem(text)
    assert problem.where == f"recipe.yaml:5 stages[0]{where}"
    assert problem.found == found
    assert problem.expected == expected
    assert problem.fix == fix


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [
        ("model: 3", "model", "3"),
        ("model: {bulider: 'a:b'}", "model.bulider", "unknown key 'bulider'"),
        ("model: {builder: a.b}", "model.builder", "'a.b'"),
        ("model: {builder: 'a:b', args: {x: .nan}}", "model.args", "a mapping with x"),
        ("model: ''", "model", "''"),
        ("model: m\ndata: {npx: a.npz}", "data.npx", "unknown key 'npx'"),
        ("model: m\ndata: [a]", "data", "['a']"),
        ("model: m\ndata: {directory: d, image_size: [3]}", "data.image_size", "[3]"),
        ("model: m\ndata: {directory: d, grayscale: yes}", "data.grayscale", "'yes'"),
    ],
)
def test_a_union_gives_one_problem(text, where, found):
    (problem,) = problems_of(f"version: 1\nname: r\nstages: [{{type: qat}}]\n{text}\n")
    line = 3 + len(text.splitlines())
    assert problem.where == f"recipe.yaml:{line} {where}"
    assert problem.found == found


def test_problems_of_overrides_say_so():
    text = HEAD + "stages: [{type: prune, sparsity: 0.5}, {type: qat, name: q}]"
    settings_and_places = {
        "stages.prune.sparsity=2": "--set stages.prune.sparsity=2",
        "stages.prune.granularity=2:4": "--set stages.prune.granularity=2:4",
        "stages.prune.begin=80%": "--set stages.prune.begin=80%",
        "stages.0.name=q": "--set stages.0.name=q",
        "stages.q.epoch=2": "--set stages.q.epoch=2",
        "defualts.batch_size=2": "--set defualts.batch_size=2",
        "evaluate={mode: sum}": "--set evaluate={mode: sum} evaluate.mode",
        "baseline.optimizer=sgd": "--set baseline.optimizer=sgd baseline.epochs",
        "stages.nope.epochs=2": "--set stages.nope.epochs=2",
    }
    for setting, place in settings_and_places.items():
        (problem,) = problems_of(text, [setting])
        assert problem.where == place
    both = problems_of(text + "\nx: 1", ["stages.q.epochs=0", "bad"])
    assert [problem.where for problem in both] == [
        "--set bad",
        "--set stages.q.epochs=0",
        "recipe.yaml:5 x",
    ]
