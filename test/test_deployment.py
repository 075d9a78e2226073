"""Docker files, workflows, the unit file and the written steps say the same. Nothing here builds an image."""

import configparser
import json
import re
import shlex
import subprocess

import pytest
import yaml

from test import ROOT

DOCKER = ROOT / "docker"
STEPS = ("rosdep install", "python3 -m venv", "touch venv", "pip install", "taco weights", "colcon build")
INSTRUCTIONS = {
    *("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "HEALTHCHECK", "RUN", "SHELL", "STOPSIGNAL", "WORKDIR"),
}


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


DOCKERFILE = instructions((DOCKER / "Dockerfile").read_text())


def arguments(name: str) -> list[str]:
    return [rest for instruction, rest in DOCKERFILE if instruction == name]


def steps(commands) -> list[str]:
    """Those commands that install, without their comments."""
    bare = (re.sub(r"\s+#.*", "", command).strip() for command in commands)
    return [command for command in bare if command.startswith(STEPS)]


def block(page: str, heading: str) -> list[str]:
    """The lines of the first bash block under a heading."""
    return re.search(rf"{re.escape(heading)}[^\n]*\n.*?```bash\n(.*?)```", (ROOT / page).read_text(), re.S)[1].splitlines()


def workflow(name: str) -> dict:
    return yaml.load((ROOT / ".github" / "workflows" / name).read_text(), yaml.BaseLoader)


def test_the_steps_are_the_same_everywhere():
    written = steps(block("docs/robot.md", "## Install"))
    assert [step.split()[0] for step in written] == ["rosdep", "python3", "touch", "pip", "taco", "colcon"]
    assert steps(block("README.md", "## On a robot")) == written
    assert steps(part for run in arguments("RUN") for part in run.split(" && ")) == written
    runs = [line for step in workflow("test.yml")["jobs"]["ros"]["steps"] for line in step.get("run", "").splitlines()]
    assert steps(runs)[: len(written)] == written


def test_the_dockerfile():
    assert {name for name, _ in DOCKERFILE} <= INSTRUCTIONS
    bases = arguments("FROM")
    assert bases[0] == "ros:${ROS_DISTRO}-ros-base AS build" and [base.split()[0] for base in bases[1:]] == ["build"] * 2
    assert bases[-1].endswith(" AS cpu")  # the default target
    for form in (*arguments("CMD"), *arguments("ENTRYPOINT"), *arguments("SHELL")):
        assert json.loads(form)  # the shell form would keep signals from the command
    assert arguments("STOPSIGNAL") == ["SIGINT"]
    assert json.loads(re.search(r"CMD (\[.*)", arguments("HEALTHCHECK")[0])[1])[-1] == "/healthcheck.py"
    copied = [shlex.split(copy)[:-1] for copy in arguments("COPY")]
    assert all((ROOT / source).exists() for sources in copied for source in sources)
    assert all(run.endswith("rm -rf /var/lib/apt/lists/*") for run in arguments("RUN") if "apt-get update" in run)
    assert "pipefail" in arguments("SHELL")[0]


def test_the_entry_point_hands_over_to_the_command():
    script = DOCKER / "entrypoint.sh"
    subprocess.run(["bash", "-n", script], check=True)
    assert script.stat().st_mode & 0o111 and script.read_text().endswith('exec "$@"\n')
    sources = re.findall(r'^source "?([^"\n]+)"?$', script.read_text(), re.M)
    assert sources == ["/opt/ros/$ROS_DISTRO/setup.bash", "/ros2_ws/venv/bin/activate", "/ros2_ws/install/setup.bash"]


def test_compose_passes_microphone_and_camera():
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    targets = {base.split()[-1] for base in arguments("FROM")}
    assert services["taco"]["build"]["target"] in targets and (ROOT / services["taco"]["build"]["dockerfile"]).is_file()
    assert services["taco"]["devices"] == ["/dev/snd"] and services["camera"]["devices"] == ["/dev/video0"]
    assert {service["stop_signal"] for service in services.values()} == {"SIGINT"}
    known = (ROOT / "taco_ros" / "launching.py").read_text()
    for argument in services["taco"]["command"][4:]:
        assert f'"{argument.partition(":=")[0]}"' in known


def test_the_unit_file_stops_launch_with_sigint():
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read_string(re.search(r"```ini\n(.*?)```", (ROOT / "docs/robot.md").read_text(), re.S)[1])
    service = unit["Service"]
    assert service["KillSignal"] == "SIGINT" and service["Restart"] == "on-failure"
    shell, option, command = shlex.split(service["ExecStart"])
    assert (shell, option) == ("/bin/bash", "-c") and "&& exec ros2 launch taco_ros taco.launch.py" in command
    subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_workflows(path):
    content = workflow(path.name)
    assert {"name", "on", "permissions", "jobs"} <= set(content)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for job in content["jobs"].values():
        assert "timeout-minutes" in job and "runs-on" in job
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert re.fullmatch(r"[\w/-]+@v\d+", step.get("uses", "a@v1"))
            script = re.sub(r"\$\{\{.*?\}\}", "x", step.get("run", ""))
            subprocess.run(["bash", "-n", "-c", script], check=True)
            assert set(re.findall(r"\bmake ([a-z-]+)", script)) <= targets


def test_both_distros_are_tested():
    job = workflow("test.yml")["jobs"]["ros"]
    assert job["strategy"]["matrix"]["distro"] == ["jazzy", "kilted"] and "matrix.distro" in job["container"]
