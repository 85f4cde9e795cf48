"""Every key of a run's configuration, in one dataclass."""

from dataclasses import dataclass, field

from medvlmoe.baselines.config import BaselineConfig
from medvlmoe.data.config import DataConfig
from medvlmoe.errors import ConfigError
from medvlmoe.model.config import MedVLMoEConfig
from medvlmoe.privacy.config import PrivacyConfig
from medvlmoe.run_folder import OutputConfig
from medvlmoe.training.config import TrainingConfig
from strategies.config import FederationConfig, StrategyConfig
from strategies.privacy_rules import refuse_contradictions, refuse_uncovered_records

MODES = ("federated", "centralized", "local", "yardstick", "baseline")
ENGINES = ("in_process", "ray")


@dataclass(kw_only=True)
class SimulationConfig:
    """How a federation runs on one machine.

    Attributes:
        engine: ``in_process`` (one process, one resident model) or ``ray`` (Flower's engine, extra ``ray``).
        yardstick: timm backbone of ``mode=yardstick``: trained from scratch on each site's images alone.
    """

    engine: str = "in_process"
    yardstick: str = "resnet18"

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ConfigError(f"simulation.engine={self.engine}: choose one of {', '.join(ENGINES)}")


@dataclass(kw_only=True)
class RunConfig:
    """Root of the configuration (``configs/config.yaml``).

    Attributes:
        seed: seed of everything random in the run.
        mode: ``federated``; ``centralized`` (one model on the pooled sites); ``local`` (one model a site);
            ``yardstick`` (a plain image classifier a site); ``baseline`` (a comparison model of the paper a site).
        compare: further modes to run on the same sites, for one table.
        resume: go on with the run of this name if there is one.
        checkpoint: ``medvlmoe evaluate``: the checkpoint.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` …
        devices: how many GPUs of this machine share each batch, or ``all``; on a CPU, how many processes.
        model: architecture.
        baseline: the comparison model of ``mode=baseline``.
        data: the sites and their data.
        training: optimizer, schedule, precision.
        strategy: merge rule and wire format.
        federation: the round loop.
        privacy: differential privacy of records, of hospitals, or none.
        simulation: engine on one machine.
        output: where results go.
    """

    seed: int = 0
    mode: str = "federated"
    compare: list[str] = field(default_factory=list)
    resume: bool = False
    checkpoint: str | None = None
    device: str = "auto"
    devices: int | str = 1
    model: MedVLMoEConfig = field(default_factory=MedVLMoEConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        for mode in (self.mode, *self.compare):
            if mode not in MODES:
                raise ConfigError(f"mode '{mode}': choose among {', '.join(MODES)}")
        refuse_contradictions(self.mode, self.privacy, self.training, self.federation)
        refuse_uncovered_records(
            [self.mode, *self.compare],
            self.privacy,
            self.training,
            self.federation,
            self.model,
            self.strategy,
        )
