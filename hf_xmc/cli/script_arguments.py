"""The arguments of `hf-xmc train` in addition to the trainer's: data, encoder, model settings, adapters."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import Any

from hf_xmc.modeling.configuration_xmc import LABEL_HEADS, POOLINGS, SETTINGS, XMCDualEncoderConfig

CHOICES = {"pooling": POOLINGS, "label_head": LABEL_HEADS}
VALIDATIONS = ("held_out", "none")
LENGTHS = ("max_query_length", "max_label_length")


@dataclass(kw_only=True)
class Sources:
    """What to train on what."""

    dataset: str = field(
        metadata={"help": "Dataset to train on: 'sample', a folder, or the name of a folder in $HF_XMC_DATA."}
    )
    model_name_or_path: str = field(
        metadata={
            "help": "Encoder to start from (a Hub id or folder that AutoModel loads), or a trained folder to train "
            "further; or 'none' for a static tower alone (static_dim), without a transformer."
        }
    )
    validation: str = field(
        default="held_out",
        metadata={
            "help": "How the validation split is used: 'held_out' to choose and measure checkpoints, 'none' to train "
            "on its queries as well, as the papers do. The last weights are then kept, and nothing is measured.",
            "choices": list(VALIDATIONS),
        },
    )
    enrich: str | None = field(
        default=None,
        metadata={
            "help": "Table of strings and texts (columns string, text): the texts of the strings that stand in a "
            "query are read behind it. It is stored with the model."
        },
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={"help": "Attention implementation: sdpa, flash_attention_2, ... (default: the encoder's choice)."},
    )


def kind(name: str) -> Any:
    """The type of a model setting, or None where it is left out."""
    annotation = XMCDualEncoderConfig.__annotations__[name].removesuffix(" | None")
    return {"bool": bool, "int": int, "float": float, "str": str}[annotation] | None


def model_setting(name: str) -> Any:
    """The field of a model setting, with its help text from `configuration_xmc.SETTINGS`."""
    default = getattr(XMCDualEncoderConfig, name, None)
    known = {"choices": list(CHOICES[name])} if name in CHOICES else {}
    papers = "the one that papers on the dataset use, or " if name in LENGTHS else ""
    shown = "" if default in (None, "") else f" Default for a new model: {papers}{default}."
    return field(default=None, metadata={"help": f"{SETTINGS[name]}{shown}", **known})


ModelSettings: Any = make_dataclass(
    "ModelSettings",
    [(name, kind(name), model_setting(name)) for name in SETTINGS],
    bases=(Sources,),
    kw_only=True,
)


@dataclass(kw_only=True)
class ScriptArguments(ModelSettings):
    """What to train on what. Model settings that are left out are those of the model, or the defaults of
    XMCDualEncoderConfig for a new one."""

    lora_rank: int | None = field(
        default=None,
        metadata={
            "help": "Rank of LoRA adapters, which are trained with the projections in place of the whole encoder. "
            "Needs peft. The saved model has them merged (default: no adapters)."
        },
    )
    lora_alpha: int | None = field(
        default=None,
        metadata={
            "help": "Scaling alpha of the adapters, which are multiplied by alpha / rank (default: twice the rank)."
        },
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout probability before the adapters."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the layers with adapters (default: all linear layers of the encoders)."},
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Number of evaluations without improvement after which training stops; needs "
            "--load_best_model_at_end true (default: disabled)."
        },
    )

    def model_settings(self) -> dict[str, Any]:
        """The fields of XMCDualEncoderConfig that were given, and the attention implementation."""
        values = {name: getattr(self, name) for name in (*SETTINGS, "attn_implementation")}
        return {name: value for name, value in values.items() if value is not None}

    def peft_config(self) -> Any:
        """The adapters that were asked for, or `None`."""
        if self.lora_rank is None:
            return None
        from peft import LoraConfig

        return LoraConfig(
            r=self.lora_rank,
            lora_alpha=2 * self.lora_rank if self.lora_alpha is None else self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=self.lora_target_modules,
        )
