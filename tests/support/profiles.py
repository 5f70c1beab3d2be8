"""Profiles of other distributions."""

from pathlib import Path


def install_profile(directory: Path, name: str, source: str, class_name: str) -> None:
    """Installs a distribution with the profile `name` in `directory`, which is to be on the PYTHONPATH."""
    module = f"{name}_profile"
    (directory / f"{module}.py").write_text(source)
    metadata = directory / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[gateway.profiles]\n{name} = {module}:{class_name}\n")
