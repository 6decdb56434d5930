"""compresskit.recipe_distill: who teaches, what is compared, and who learns."""

from __future__ import annotations

import pytest

from compresskit.recipe import Recipe
from compresskit.recipe_distill import AttentionMaps, Features, Logits, Pupil, Texts
from compresskit.recipe_fields import Builder
from tests.recipes import HEAD, problems_of, stage, stage_problem


class TestStage:
    def test_what_it_is_by_default(self):
        made = stage("{type: distill}")
        assert (made.teacher, made.student, made.alpha, made.temperature) == (
            "baseline",
            None,
            0.5,
            3.0,
        )
        assert made.losses == (Logits(),)
        assert made.learning is made
        assert (made.vocabulary, made.transfer, made.cache) == ("all", None, True)

    def test_everything(self):
        made = stage(
            "{type: distill, teacher: t.keras, student: {from: teacher, layers: [0, 3]},"
            " alpha: 1.0, losses: [{type: logits, weight: 2.0},"
            " {type: features, layers: {a: b}, loss: cosine},"
            " {type: attention, layers: {c: d}, loss: mse}], transfer: {texts: q.txt},"
            " vocabulary: data, cache: false}"
        )
        assert made.student.layers == (0, 3)
        assert made.losses == (
            Logits(weight=2.0),
            Features(layers={"a": "b"}, loss="cosine"),
            AttentionMaps(layers={"c": "d"}, loss="mse"),
        )
        assert made.transfer == Texts(texts="q.txt")

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("bert-tiny", str),
            ("{builder: 'a.b:c'}", Builder),
            ("{from: teacher, layers: [0]}", Pupil),
        ],
    )
    def test_students(self, text, kind):
        assert isinstance(stage(f"{{type: distill, student: {text}}}").student, kind)

    def test_an_attribute_of_every_stage_that_compresses(self):
        for text in ("prune, sparsity: 0.5", "cluster, clusters: 4", "qat"):
            made = stage(f"{{type: {text}, distill: {{teacher: baseline, temperature: 4}}}}")
            assert made.learning.temperature == 4.0
            assert stage(f"{{type: {text}}}").learning is None

    def test_there_and_back(self):
        read = Recipe.loads(
            f"{HEAD}stages:\n- {{type: distill, student: {{from: teacher, layers: [1]}}}}\n"
            "- {type: qat, distill: {losses: [{type: attention, layers: {a: b}}]}}\n"
        )
        assert "from: teacher" in read.dump()
        assert Recipe.loads(read.dump()) == read


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "where", "found", "fix"),
        [
            ("alpha: 2", "alpha", "2", "for example `alpha: 0.5`"),
            ("temprature: 4", "temprature", "unknown key 'temprature'", "'temperature'"),
            ("losses: [{type: logit}]", "losses[0].type", "'logit'", "did you mean 'logits'?"),
            ("losses: []", "losses", "none", "remove `losses`"),
            (
                "losses: [{type: features, layers: {}}]",
                "losses[0].layers",
                "none",
                "`layers: {block2_norm: block6_norm}`",
            ),
            ("student: {form: teacher, layers: [0]}", "student.form", "'form'", "'from'"),
            ("student: {from: teacher, layers: []}", "student.layers", "none", "[0, 2]"),
            ("student: {from: teacher, layers: [2, 1]}", "student.layers", "[2, 1]", "[1, 2]"),
            ("student: 3", "student", "3", "`student: "),
            ("transfer: {text: q.txt}", "transfer.text", "'text'", "'texts'"),
            ("transfer: q.txt", "transfer", "'q.txt'", "`transfer: "),
            ("vocabulary: few", "vocabulary", "'few'", "all, data"),
            ("targets: [a]", "targets", "unknown key 'targets'", "use one of"),
        ],
    )
    def test_words(self, text, where, found, fix):
        problem = stage_problem(f"{{type: distill, {text}}}")
        assert problem.where == f"recipe.yaml:5 stages[0].{where}"
        assert found in problem.found
        assert fix in problem.fix + problem.expected

    def test_all_at_once(self):
        problems = problems_of(
            f"{HEAD}stages:\n  - {{type: distill, alpha: 2, losses: [{{type: logit}}], cache: 1}}\n"
        )
        assert [problem.where.split(".")[-1] for problem in problems] == ["alpha", "type", "cache"]
