"""diffusion-lab train: data -> model -> fit -> weights -> score. The same command again finds what it made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from diffusion_lab.commands.build import build_data, build_model, plain_config, state_facts, training_fingerprint
from diffusion_lab.commands.mistakes import MistakeError, users_mistakes
from diffusion_lab.commands.scoring import score_once
from diffusion_lab.files import write_whole
from diffusion_lab.runs import ModelDirectory, model_directory, write_json

if TYPE_CHECKING:
    from lightning import Trainer

    from diffusion_lab.data.base import DataModule
    from diffusion_lab.models.base import GenerativeModel


def completed(options: list[str]) -> list[str]:
    """Training takes its options as they are."""
    return options


def run(cfg: DictConfig) -> None:
    """Build and check everything, train what is not trained yet, score what is not scored yet."""
    from diffusion_lab.commands.quiet import quiet_lightning

    quiet_lightning()
    console = Console()
    with users_mistakes():
        data = build_data(cfg)
        state_facts(cfg, data)
        model = build_model(cfg)
        _check_scoring(cfg, data)
        fingerprint = training_fingerprint(cfg, data)
    choices = {group: option for group, option in HydraConfig.get().runtime.choices.items() if "hydra" not in group}
    directory = model_directory(Path(cfg.outputs), data.name, choices["model"], fingerprint)
    if directory.finished and not cfg.retrain:
        console.print(f"this model is trained already: {directory.path} (retrain=true trains anew)", highlight=False)
    else:
        _train(cfg, data, model, directory, fingerprint, choices)
    model.load_weights({name: directory.weights(name) for name in directory.weight_names})
    score_once(model, data, cfg, directory, Path(cfg.outputs), cfg.rescore or cfg.retrain)


def _train(
    cfg: DictConfig,
    data: DataModule,
    model: GenerativeModel,
    directory: ModelDirectory,
    fingerprint: str,
    choices: dict[str, str],
) -> None:
    import torch

    from diffusion_lab.callbacks.monitor import Monitor
    from diffusion_lab.networks.compilation import compile_network
    from diffusion_lab.networks.cost import network_cost
    from diffusion_lab.networks.memory import keep_freed_memory

    console = Console()
    with users_mistakes():
        trainer = _trainer(cfg, directory, fingerprint)
    if cfg.retrain:
        directory.clear()
    cost = network_cost(model.network, model.shape)
    console.print(
        f"{data.name}: {data.num_train} training images {tuple(data.shape)}; "
        f"{choices['model']} with {cost.parameters:,} parameters, "
        f"{cost.forward_flops / 1e6:.1f} MFLOP an image and evaluation; into {directory.path}",
        highlight=False,
        soft_wrap=True,
    )
    keep_freed_memory()
    notice = compile_network(model.network) if cfg.compile else None
    if notice:
        console.print(notice, highlight=False)
    write_whole(directory.config, OmegaConf.to_yaml(OmegaConf.create(plain_config(cfg))).encode())
    write_json(directory.choices, choices)
    resumed = directory.resume if directory.resume.is_file() else None
    if resumed:
        console.print(f"going on from {resumed}", highlight=False)
    trainer.fit(model, train_dataloaders=data, ckpt_path=resumed, weights_only=True if resumed else None)
    model.save_weights({name: directory.weights(name) for name in model.weight_names})
    directory.finish(
        steps=trainer.global_step,
        seconds=next(part.seconds for part in trainer.callbacks if isinstance(part, Monitor)),
        images=model.batches_trained * data.batch_size,
        fingerprint=fingerprint,
        parameters=cost.parameters,
        flops=cost.forward_flops,
        torch=torch.__version__,
    )


def _trainer(cfg: DictConfig, directory: ModelDirectory, fingerprint: str) -> Trainer:
    """Lightning's Trainer with our callbacks, loggers and an endless stream of batches."""
    import torch

    from diffusion_lab.callbacks.record import CSVRecord

    if not isinstance(cfg.trainer.max_steps, int):
        raise MistakeError(f"trainer.max_steps={cfg.trainer.max_steps}: the number of training steps is a whole number")
    if cfg.trainer.max_steps < 1 and cfg.trainer.max_time is None:
        raise MistakeError("trainer.max_steps or trainer.max_time must say when training ends")
    callbacks = cfg.callbacks
    parts: list[Any] = [
        instantiate(cfg.ema),
        instantiate(callbacks.monitor),
        instantiate(callbacks.progress),
        instantiate(callbacks.sample_grid)(folder=directory.samples),
        instantiate(callbacks.checkpoint)(
            dirpath=directory.path, filename=directory.resume.stem, save_top_k=1, enable_version_counter=False
        ),
    ]
    loggers: list[Any] = [CSVRecord(directory.metrics_csv)]
    if cfg.get("logger") is not None:
        directory.logs.mkdir(parents=True, exist_ok=True)
        named = {"name": directory.path.name, "id": fingerprint[:12]} if "wandb" in cfg.logger._target_ else {}
        loggers.append(instantiate(cfg.logger)(save_dir=directory.logs, **named))
    options = {**cfg.trainer}
    if options["accelerator"] == "auto" and not torch.cuda.is_available():
        options["accelerator"] = "cpu"  # "auto" may find a device without float64, which the theory's tables need
    return instantiate(
        options,
        logger=loggers,
        callbacks=parts,
        max_epochs=-1,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        default_root_dir=directory.path,
    )


def _check_scoring(cfg: DictConfig, data: DataModule) -> None:
    """What would fail after training fails before it."""
    instantiate(cfg.features).check(data.shape)
    settings = instantiate(cfg.evaluation)
    known = ["auto", "raw", *instantiate(cfg.ema).decays]
    if settings.weights not in known:
        raise MistakeError(f"evaluation.weights={settings.weights}: the weights are {', '.join(known)}")
