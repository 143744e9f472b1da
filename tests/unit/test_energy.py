"""Energy meters, read from folders that look like a machine's."""

from pathlib import Path

import pytest

from agent.energy import POWER_LOOK_S, Battery, Ina3221, Rapl, find_meter


def write(folder: Path, **files: object) -> Path:
    """Writes small files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    return folder


def package(sys: Path, number: int, energy_uj: int) -> Path:
    """A processor package of RAPL."""
    zone = sys / f"class/powercap/intel-rapl:{number}"
    return write(zone, name=f"package-{number}", energy_uj=energy_uj, max_energy_range_uj=1_000_000_000)


def battery(sys: Path, status: str, **files: object) -> Path:
    """A battery."""
    return write(sys / "class/power_supply/BAT0", type="Battery", status=status, **files)


def test_rapl_is_the_sum_of_the_packages_also_past_the_end_of_a_counter(tmp_path: Path) -> None:
    """Zones inside a package, and the platform's own, are not counted twice."""
    first, second = package(tmp_path, 0, 999_000_000), package(tmp_path, 1, 5_000_000)
    write(tmp_path / "class/powercap/intel-rapl:0:0", name="core", energy_uj=7)
    write(tmp_path / "class/powercap/intel-rapl:2", name="psys", energy_uj=7)
    meter = Rapl.find(tmp_path)
    assert meter is not None
    write(first, energy_uj=1_000_000)  # it began anew
    write(second, energy_uj=8_000_000)
    assert meter.joules() == pytest.approx(2 + 3)
    assert meter.joules() == 0
    (second / "energy_uj").unlink()
    assert meter.joules() is None


def test_a_battery_tells_only_while_it_discharges(tmp_path: Path) -> None:
    """Of a charger's current nobody knows."""
    folder = battery(tmp_path, "Discharging", energy_now=50_000_000)
    meter = Battery.find(tmp_path)
    assert meter is not None
    write(folder, energy_now=49_000_000)
    assert meter.joules() == pytest.approx(3600)
    write(folder, status="Charging", energy_now=49_500_000)
    assert meter.joules() is None
    write(folder, status="Discharging")
    assert meter.joules() is None  # it was charged in between
    write(folder, energy_now=49_400_000)
    assert meter.joules() == pytest.approx(360)


def test_a_battery_that_counts_charge(tmp_path: Path) -> None:
    """Charge times voltage."""
    folder = battery(tmp_path, "Discharging", charge_now=1_000_000, voltage_now=10_000_000)
    meter = Battery.find(tmp_path)
    assert meter is not None
    write(folder, charge_now=900_000)
    assert meter.joules() == pytest.approx(3600)


def test_power_is_summed_up_and_a_gap_is_no_guess(tmp_path: Path) -> None:
    """5 V and 2 A for four seconds are 40 J; when nobody looked for long, there is no number."""
    now_s = [0.0]
    folder = tmp_path / "class/hwmon/hwmon1"
    write(folder, name="ina3221", in1_label="VDD_IN", in1_input=5000, curr1_input=2000)
    meter = Ina3221.find(tmp_path, lambda: now_s[0])
    assert meter is not None
    for _ in range(2):
        now_s[0] += POWER_LOOK_S
        meter.look()
    assert meter.joules() == pytest.approx(40)
    now_s[0] += 100
    meter.look()
    assert meter.joules() is None
    now_s[0] += POWER_LOOK_S
    meter.look()
    assert meter.joules() == pytest.approx(20)


def test_the_meter_that_sees_most_is_taken(tmp_path: Path) -> None:
    """The board before the processor before the battery; none where there is none, or none that can be read."""
    assert find_meter(tmp_path) is None
    write(tmp_path / "class/powercap/intel-rapl:0", name="package-0")  # only root may read it
    assert find_meter(tmp_path) is None
    battery(tmp_path, "Discharging", energy_now=5)
    assert isinstance(find_meter(tmp_path), Battery)
    package(tmp_path, 0, 5)
    assert isinstance(find_meter(tmp_path), Rapl)
    write(tmp_path / "class/hwmon/hwmon0", name="ina3221", in2_label="VDD_IN", in2_input=1, curr2_input=1)
    assert isinstance(find_meter(tmp_path), Ina3221)
