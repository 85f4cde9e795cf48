"""What to draw and where to put it."""

from dataclasses import dataclass, field

from medvlmoe.errors import ConfigError

BENCHMARKS = ("chestxray14", "chexpert", "mimic_cxr", "pathmnist", "retinamnist")

VOLUMES = "volumes"
"""Not a benchmark: three hospitals with chest CT, written only when asked for."""

# MedMNIST files are only defined for these sizes; the chest layouts take any.
MEDMNIST_SIZES = (28, 64, 128, 224)

SMALLEST_SITE = 40
SMALLEST_IMAGE, LARGEST_IMAGE = 28, 1024


@dataclass(kw_only=True)
class PhantomConfig:
    """Configuration of the phantom generator.

    Attributes:
        root: folder to write; must be new, empty or an older phantom folder (whose content is then replaced).
        images_per_site: images of each benchmark, training, validation and test together.
        image_size: height and width in pixels; volumes have half as many slices, or a little more.
        seed: equal seeds give bit-identical files.
        benchmarks: which of the five to write; each comes out the same whichever others are written with it.
            ``volumes`` are three hospitals with chest CT (needs the extra ``volumes``).

    Raises:
        ConfigError: a value out of range or an unknown benchmark.
    """

    root: str = "phantom"
    images_per_site: int = 400
    image_size: int = 64
    seed: int = 0
    benchmarks: list[str] = field(default_factory=lambda: list(BENCHMARKS))

    def __post_init__(self) -> None:
        unknown = [name for name in self.benchmarks if name not in (*BENCHMARKS, VOLUMES)]
        if unknown:
            raise ConfigError(f"benchmarks: unknown '{unknown[0]}'; choose from {', '.join((*BENCHMARKS, VOLUMES))}")
        if not self.benchmarks or len(set(self.benchmarks)) < len(self.benchmarks):
            raise ConfigError(f"benchmarks={self.benchmarks}: name at least one benchmark, each once")
        if not self.root:
            raise ConfigError("root is empty; name the folder to write")
        if self.images_per_site < SMALLEST_SITE:
            raise ConfigError(
                f"images_per_site={self.images_per_site}: at least {SMALLEST_SITE}, so that every split has images"
            )
        if not SMALLEST_IMAGE <= self.image_size <= LARGEST_IMAGE:
            raise ConfigError(f"image_size={self.image_size}: choose {SMALLEST_IMAGE} to {LARGEST_IMAGE}")
        medmnist = [name for name in self.benchmarks if name.endswith("mnist")]
        if medmnist and self.image_size not in MEDMNIST_SIZES:
            sizes = ", ".join(map(str, MEDMNIST_SIZES))
            raise ConfigError(
                f"image_size={self.image_size}: {medmnist[0]} exists only in sizes {sizes}; "
                "choose one of them or leave it out of benchmarks"
            )
