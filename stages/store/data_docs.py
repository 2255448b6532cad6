"""Asks Great Expectations the rules and writes its Data Docs: offline, deterministic, without a hole.

Great Expectations is used for what it is good at, evaluating a suite and documenting it. Four habits
of it are undone here: it puts values into its pages unescaped, so they are escaped before it sees
them; it loads styles and scripts from the network, stamps the hour on every page and fills its index
by script, so each page's content is moved into a page of ours; an expectation that cannot be
evaluated counts as failed and a renderer that raises is only logged, so both stop the stage here.
"""

from __future__ import annotations

import datetime
import html
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from stages.core.errors import IntegrityError
from stages.core.expectations import Rule
from stages.core.offline_html import content
from stages.core.page import Badge, Page, Tone, document, escape
from stages.core.verdict import Answer

if TYPE_CHECKING:
    import pandas as pd

# A date would make each run's pages differ; when a run took place is told by Prefect and Git.
RUN_TIME = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
ROWS_SHOWN = 24  # failing rows per rule
KEYS = {
    "images": "name",
    "classes": "label",
    "class_set": "label",
    "decisions": "decision",
    "drift": "quantity",
}  # the column that names a row


@dataclass(frozen=True)
class Inquiry:
    """The answers in the rules' order, and each table's suite as Great Expectations' own JSON value."""

    answers: list[Answer]
    suites: dict[str, Any]


def inquire(tables: Mapping[str, pa.Table], rules: Sequence[Rule], folder: Path) -> Inquiry:
    """Ask every rule of its table and write the Data Docs into the existing `folder`.

    Raises IntegrityError where an expectation could not be evaluated or a page has a part missing.
    """
    gx = _great_expectations()
    names = list(tables)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    # It would be built too, into a temporary folder that nothing removes.
    context.delete_data_docs_site("local_site")
    source = context.data_sources.add_pandas("facts")
    identifier = gx.RunIdentifier(run_name="validate", run_time=RUN_TIME)
    answers: dict[str, Answer] = {}
    suites: dict[str, Any] = {}
    for name in names:
        asked = [rule for rule in rules if rule.table == name]
        suite = gx.ExpectationSuite(name=name, expectations=[_expectation(gx, rule) for rule in asked])
        definition = gx.ValidationDefinition(
            name=name,
            data=source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all"),
            suite=context.suites.add(suite),
        )
        checkpoint = gx.Checkpoint(
            name=name,
            validation_definitions=[context.validation_definitions.add(definition)],
            actions=[],
            result_format={
                "result_format": "COMPLETE",
                "unexpected_index_column_names": [KEYS[name]],
                "partial_unexpected_count": ROWS_SHOWN,
                "return_unexpected_index_query": False,
            },
        )
        frame, raw = _escaped(tables[name], KEYS[name])
        outcome = context.checkpoints.add(checkpoint).run({"dataframe": frame}, run_id=identifier)
        (evaluated,) = outcome.run_results.values()
        by_id = {rule.id: rule for rule in asked}
        for result in evaluated.results:
            rule = by_id[result.expectation_config.meta["rule"]]
            answers[rule.id] = _answer(rule, result, raw)
        suites[name] = _without_ids(suite.to_json_dict())
    missing = [rule.id for rule in rules if rule.id not in answers]
    if missing:
        raise IntegrityError(f"Great Expectations left rules unanswered: {', '.join(missing)}")
    ordered = [answers[rule.id] for rule in rules]
    _write_docs(context, names, ordered, folder)
    return Inquiry(ordered, suites)


def _great_expectations() -> Any:
    # Stages log at INFO, where Great Expectations would tell of every method it registers while it is
    # imported, and of a temporary folder afterwards, by a logger that sets its own level.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Its own imports use a standard module that Python has deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations
        import great_expectations.expectations
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    return great_expectations


def _expectation(gx: Any, rule: Rule) -> Any:
    """The expectation object of a rule. Its texts are escaped, because they go into pages as they are."""
    class_name = "".join(word.title() for word in rule.expectation.split("_"))
    arguments = {
        key: [escape(v) if isinstance(v, str) else v for v in value] if isinstance(value, list) else value
        for key, value in rule.arguments.items()
    }
    return getattr(gx.expectations, class_name)(
        **arguments,
        severity=rule.severity,
        description=escape(_shown(rule)),
        meta={"rule": rule.id},
    )


def _shown(rule: Rule) -> str:
    """Data Docs know no severity, so the sentence carries it."""
    return f"{rule.description} ({rule.severity}: {rule.id})"


def _escaped(table: pa.Table, key: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table with every text escaped, and the way back for those names that html.unescape does not restore."""
    # Not before it is needed: every stage imports every stage's parameters, and with them this module.
    import pandas as pd

    # Great Expectations copies the whole table for every expectation, so its columns are as small as they can be:
    # few texts but names come more than once, and most are null.
    columns = {}
    raw: dict[str, str] = {}
    for field in table.schema:
        if not pa.types.is_string(field.type):
            columns[field.name] = table[field.name].to_pandas()
            continue
        escaped = pa.chunked_array([_escaped_texts(chunk) for chunk in table[field.name].chunks], pa.string())
        if field.name == key:
            for texts, safe in zip(table[key].chunks, escaped.chunks, strict=True):
                for text, way in zip(texts.to_pylist(), safe.to_pylist(), strict=True):
                    # Of nearly all, html.unescape knows the way back.
                    if text is not None and (way in raw or html.unescape(way) != text):
                        raw[way] = text
            columns[field.name] = pd.Series(escaped.to_pandas(), dtype="str")
        else:
            columns[field.name] = escaped.dictionary_encode().to_pandas()
    return pd.DataFrame(columns, copy=False), raw


def _escaped_texts(texts: pa.Array) -> pa.Array:
    return pa.array([None if text is None else escape(text) for text in texts.to_pylist()], pa.string())


def _answer(rule: Rule, result: Any, raw: Mapping[str, str]) -> Answer:
    trouble = _exception(result.exception_info)
    if trouble:
        raise IntegrityError(f"Great Expectations could not evaluate rule {rule.id!r}: {trouble}")
    found: dict[str, Any] = result.result
    if rule.threshold is None:
        value = found["observed_value"]
        observed = float(len(value) if isinstance(value, list) else value)
        return Answer(rule, bool(result.success), observed, 0, ())
    rows = found.get("unexpected_index_list") or []
    key, column = KEYS[rule.table], rule.arguments["column"]
    named = tuple((_name(row[key], raw), _plain(row.get(column))) for row in rows)
    percent = found["unexpected_percent"] or 0.0  # None where every value is null
    return Answer(rule, bool(result.success), percent / 100, int(found["unexpected_count"]), named)


def _name(value: Any, raw: Mapping[str, str]) -> str:
    """A row's name as the table had it, by what `_escaped` gave; no text where it has none."""
    if not isinstance(value, str):
        return ""
    return raw[value] if value in raw else html.unescape(value)


def _plain(value: Any) -> Any:
    """A value of the asked column as the table had it: no NumPy number, no escaped text, None where there is none."""
    if isinstance(value, str):
        return html.unescape(value)
    if value is None or value != value:
        return None
    return value.item() if hasattr(value, "item") else value


def _exception(info: Mapping[str, Any]) -> str | None:
    """The message of an expectation that raised; the information is flat, or keyed by metric."""
    nested = [value for value in info.values() if isinstance(value, Mapping)]
    for part in [info, *nested]:
        if part.get("raised_exception"):
            return str(part.get("exception_message"))
    return None


def _without_ids(value: Any) -> Any:
    """Great Expectations draws its ids at random, and nothing refers to them. Texts are escaped for its pages alone."""
    if isinstance(value, dict):
        return {key: _without_ids(part) for key, part in value.items() if key != "id"}
    if isinstance(value, str):
        return html.unescape(value)
    return [_without_ids(part) for part in value] if isinstance(value, list) else value


def _write_docs(context: Any, names: Sequence[str], answers: Sequence[Answer], folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        context.add_data_docs_site(
            "site",
            {
                "class_name": "SiteBuilder",
                "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": scratch},
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            },
        )
        with _no_complaint():
            context.build_data_docs(site_names=["site"])
        for name in names:
            suite = Path(scratch, "expectations", f"{name}.html")
            (validation,) = Path(scratch, "validations", name).rglob("*.html")
            shown = [escape(_shown(answer.rule)) for answer in answers if answer.rule.table == name]
            for page, title, target in (
                (validation, f"Great Expectations: {name}", f"{name}.html"),
                (suite, f"Great Expectations: rules for {name}", f"{name}_rules.html"),
            ):
                body = content(page.read_text(encoding="utf-8"))
                holes = [sentence for sentence in shown if sentence not in body]
                if holes:
                    missing = "; ".join(holes)
                    raise IntegrityError(f"Great Expectations left out of its page {target}: {missing}")
                (folder / target).write_text(document(title, body), encoding="utf-8")
    (folder / "index.html").write_text(_index(names, answers), encoding="utf-8")


@contextmanager
def _no_complaint() -> Iterator[None]:
    """Raise IntegrityError where Great Expectations logs a warning: its renderers raise nothing."""
    records: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("great_expectations")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    if records:
        text = " ".join(records[0].split())[:400]
        raise IntegrityError(f"Great Expectations could not draw its pages whole: {text}")


def _index(names: Sequence[str], answers: Sequence[Answer]) -> str:
    """Great Expectations fills its own index by script from the network; this one is plain."""
    page = Page("Great Expectations: Data Docs")
    page.paragraph(
        "Every rule as Great Expectations evaluated it, with values of failing rows. Which broken rule "
        "rejects the data, with pictures, is on the validation page."
    )
    page.links([("Validation page", "../index.html")])
    for name in names:
        page.heading(f"Rules asked of the table of {name}")
        page.links([("Results", f"{name}.html"), ("Rules", f"{name}_rules.html")])
        page.table(
            ["rule", "severity", "outcome", "description"],
            [
                [a.rule.id, a.rule.severity, Badge(*_outcome(a.success)), a.rule.description]
                for a in answers
                if a.rule.table == name
            ],
        )
    return page.render()


def _outcome(success: bool) -> tuple[str, Tone]:
    return ("kept", "good") if success else ("broken", "bad")
