"""Settings from a file, and what is taken from the command line before it is parsed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hf_xmc.cli.launch import relaunch
from hf_xmc.cli.main import main
from hf_xmc.cli.script_arguments import ScriptArguments
from hf_xmc.cli.settings import write_settings
from hf_xmc.cli.train import early_stopping, parse, train_from
from hf_xmc.errors import SettingsError
from hf_xmc.fit.settings import read_config
from hf_xmc.inference.fitting.tagger import checkpoint_of
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.checkpoints import NEEDED as CHECKPOINT_FILES
from hf_xmc.training.trainer import XMCTrainer

ROOT = Path(__file__).parents[2]
NEEDED = ["--dataset", "sample", "--model_name_or_path", "x"]


def parsed(*argv: str | Path) -> tuple[ScriptArguments, XMCTrainingArguments]:
    parser, given = parse([str(arg) for arg in argv], "hf-xmc train", "")
    return parser.parse_dict(vars(given))


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(
        "dataset: sample\nmodel-name-or-path: some/encoder\noutput_dir: out dir\nlearning_rate: 1e-4\n"
        "eval_strategy: no\nsave_strategy: no\nfreeze_encoder: false\nmax_steps: -1\nnum_train_epochs: 3\n"
        "query_prefix: 'find: --this'\nlabel_prefix:\nlora_target_modules: [query, value]\n"
        "lr_scheduler_kwargs: {num_cycles: 2}\nlr_scheduler_type: cosine_with_restarts\nreport_to: none\n"
    )
    return path


def test_a_file_reads_as_flags_do(settings: Path) -> None:
    script, args = parsed("--config", settings)
    assert (script.model_name_or_path, args.output_dir) == ("some/encoder", "out dir")
    assert (args.learning_rate, args.max_steps, args.num_train_epochs) == (1e-4, -1, 3)
    assert (args.eval_strategy, args.save_strategy, args.freeze_encoder) == ("no", "no", False)
    assert (script.query_prefix, script.label_prefix) == ("find: --this", None)
    assert script.lora_target_modules == ["query", "value"]
    assert args.lr_scheduler_kwargs == {"num_cycles": 2}


def test_flags_win_over_the_file(settings: Path) -> None:
    for argv in (("--config", settings, "--learning-rate", "1e-3"), ("--learning_rate=1e-3", f"--config={settings}")):
        script, args = parsed(*argv, "--lora_target_modules", "key")
        assert args.learning_rate == 1e-3
        assert script.lora_target_modules == ["key"]


def test_what_was_used_is_written_and_reads_back(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    flags = ["--dataset", str(toy), "--model_name_or_path", tiny_encoder, "--output_dir", str(tmp_path / "run")]
    flags += ["--max_steps", "1", "--save_strategy", "no", "--report_to", "none", "--disable_tqdm", "true"]
    flags += ["--learning_rate", "3e-5", "--hub_token", "hf_secret", "--query_prefix", "no"]
    flags += ["--lr_scheduler_kwargs", '{"num_cycles": 2}', "--lr_scheduler_type", "cosine_with_restarts"]
    folder = train_from(flags)
    written = yaml.safe_load((folder / "train.yaml").read_text())
    assert written["learning_rate"] == 3e-5
    assert "per_device_train_batch_size" not in written, "a default"
    assert "hf_secret" not in (folder / "train.yaml").read_text()
    assert "include_num_input_tokens_seen" not in written, "its default is a string that argparse converts"
    (script, args), (again, args_again) = parsed(*flags), parsed("--config", folder / "train.yaml")
    assert script == again
    args.hub_token = None
    assert args.to_dict() == args_again.to_dict()
    assert args_again.lr_scheduler_kwargs == {"num_cycles": 2}


def test_recipes_are_settings() -> None:
    recipes = sorted((ROOT / "scripts/recipes").glob("sample_*.yaml"))
    assert recipes
    for recipe in recipes:
        script, _ = parsed("--config", recipe)
        assert script.dataset


def error_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *argv: str | Path) -> str:
    monkeypatch.setattr("sys.argv", ["hf-xmc", "train", *map(str, argv)])
    with pytest.raises(SystemExit):
        main()
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_errors_name_the_nearest(
    settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.write_text(settings.read_text() + "learning_rat: 1\n")
    assert "there is no setting 'learning_rat'; did you mean learning_rate?" in error_of(
        capsys, monkeypatch, "--config", settings
    )
    for text, message in (("- a\n", "found list"), ("a: [", "cannot be read as YAML"), ("", "found NoneType")):
        settings.write_text(text)
        assert message in error_of(capsys, monkeypatch, "--config", settings)
    assert "cannot be read" in error_of(capsys, monkeypatch, "--config", tmp_path / "none.yaml")
    settings.write_text("max_steps: many\n")
    assert "invalid int value: 'many'" in error_of(capsys, monkeypatch, "--config", settings, *NEEDED)
    assert "did you mean multi_gpu" in error_of(capsys, monkeypatch, "--accelerate_config", "multigpu")
    assert "goes with --accelerate_config" in error_of(capsys, monkeypatch, "--num_processes", "2")


def test_early_stopping_says_what_it_needs(tmp_path: Path) -> None:
    script, args = parsed(*NEEDED, "--early_stopping_patience", "3", "--output_dir", tmp_path)
    with pytest.raises(ValueError, match="--load_best_model_at_end true"):
        early_stopping(script, args)
    best = ["--eval_strategy", "epoch", "--save_strategy", "epoch", "--load_best_model_at_end", "true"]
    script, args = parsed(*NEEDED, "--early_stopping_patience", "3", *best, "--metric_for_best_model", "nDCG@5")
    assert early_stopping(script, args)[0].early_stopping_patience == 3
    script, args = parsed(*NEEDED)
    assert early_stopping(script, args) == []


def test_a_deprecated_strategy_is_accepted_and_not_offered(capsys: pytest.CaptureFixture[str]) -> None:
    _, args = parsed(*NEEDED, "--label_strategy", "hard")
    assert (args.label_strategy, args.negative_source) == ("mixed", "label_bank")
    with pytest.raises(SystemExit):
        parsed("--help")
    choices = capsys.readouterr().out.split("--label_strategy {")[1].split("}")[0]
    assert "mixed" in choices
    assert "hard" not in choices


def test_lora_flags(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    script, _ = parsed(*NEEDED, "--lora_rank", "4", "--lora_dropout", "0.1", "--max_query_length", "16")
    config = script.peft_config()
    assert (config.r, config.lora_alpha, config.lora_dropout, config.target_modules) == (4, 8, 0.1, None)
    assert script.model_settings() == {"max_query_length": 16}


def test_gradient_caching_is_left_open_or_given(tmp_path: Path) -> None:
    needed = ["--dataset", "sample", "--model_name_or_path", "x", "--output_dir", str(tmp_path)]
    for flags, expected in (([], None), (["--gradient_caching", "false"], False), (["--gradient_caching=true"], True)):
        parser, given = parse([*needed, *flags], "hf-xmc train", "")
        assert given.gradient_caching is expected
        path = write_settings(given, parser, tmp_path / "train.yaml")
        assert parse(["--config", str(path)], "hf-xmc train", "")[1].gradient_caching is expected


def test_a_command_that_is_repeated_goes_on(
    tiny_encoder: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    step = XMCTrainer.training_step
    monkeypatch.setattr(XMCTrainer, "training_step", lambda self, *args: taken.append(1) or step(self, *args))
    flags = ["--dataset", str(toy), "--model_name_or_path", tiny_encoder, "--output_dir", str(tmp_path / "run")]
    flags += ["--save_strategy", "steps", "--save_steps", "1", "--report_to", "none", "--disable_tqdm", "true"]
    flags += ["--per_device_train_batch_size", "8", "--resume_from_checkpoint", "auto"]
    for steps in (2, 3):
        train_from([*flags, "--max_steps", str(steps)])
    assert len(taken) == 3


def test_where_a_run_goes_on(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-10"):
        (tmp_path / "run" / name).mkdir(parents=True)
        for needed in CHECKPOINT_FILES:
            (tmp_path / "run" / name / needed.replace("*", "")).touch()
    for given, folder, expected in (
        ("auto", "run", str(tmp_path / "run/checkpoint-10")),
        ("auto", "nowhere", None),
        ("auto", "run/checkpoint-9", None),
        ("true", "run", True),
        ("false", "run", False),
        ("run/Checkpoint-9", "run", "run/Checkpoint-9"),
    ):
        _, args = parsed(*NEEDED, "--output_dir", tmp_path / folder, "--resume_from_checkpoint", given)
        assert checkpoint_of(args, tmp_path / folder) == expected
    _, args = parsed(*NEEDED)
    assert checkpoint_of(args, tmp_path / "run") is None


def test_what_transformers_refuses_is_one_line(
    settings: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--config", settings, "--load_best_model_at_end", "true")
    given += ("--eval_strategy", "epoch", "--save_strategy", "steps")
    assert "load_best_model_at_end" in error_of(capsys, monkeypatch, *given)


def test_yaml_nested_too_deeply_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text("[" * 20_000)
    with pytest.raises(SettingsError, match="is not YAML"):
        read_config(path)
    with pytest.raises(SettingsError, match="is not YAML"):
        relaunch("train", ["--accelerate_config", str(path)])
