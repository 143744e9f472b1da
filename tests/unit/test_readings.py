"""What the machine is like, read from folders that look like a machine's."""

from pathlib import Path

from agent.readings import Readings

LINE = "{what} avg10=0.00 avg60=0.00 avg300=0.00 total={total}\n"


def write(file: Path, text: object) -> None:
    """Writes a file and its folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


def pressure(proc: Path, what: str, total_us: int) -> None:
    """Pressure-stall information."""
    text = LINE.format(what="some", total=total_us) + LINE.format(what="full", total=1)
    write(proc / "pressure" / what, text)


def test_a_row_tells_what_grew_since_the_row_before(tmp_path: Path) -> None:
    """As shares of the time that went by."""
    now_s = [100.0]
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    pressure(proc, "cpu", 0)
    pressure(proc, "memory", 0)
    throttled = [sys / f"devices/system/cpu/cpu{n}/thermal_throttle/core_throttle_total_time_ms" for n in (0, 1)]
    for file in throttled:
        write(file, 1000)
    write(sys / "class/thermal/thermal_zone0/temp", 41_000)
    write(sys / "class/hwmon/hwmon0/temp1_input", 55_500)
    write(sys / "class/hwmon/hwmon0/temp2_input", 255_000)  # not connected
    write(sys / "class/powercap/intel-rapl:0/name", "package-0")
    write(sys / "class/powercap/intel-rapl:0/energy_uj", 1_000_000)
    readings = Readings(tmp_path, proc=proc, sys=sys, cgroups=tmp_path, monotonic_s=lambda: now_s[0])
    now_s[0] += 10
    pressure(proc, "cpu", 2_500_000)
    pressure(proc, "memory", 10_000_000)
    write(throttled[1], 2000)
    write(sys / "class/powercap/intel-rapl:0/energy_uj", 31_000_000)
    write(proc / "meminfo", "MemAvailable: 2097152 kB")
    row = readings.row()
    assert (row.cpu_stalled_percent, row.memory_stalled_percent, row.throttled_percent) == (25.0, 100.0, 10.0)
    assert (row.temperature_c, row.energy_joules, row.energy_source) == (55.5, 30.0, "rapl")
    assert row.ram_available_mib == 2048
    assert row.disk_free_mib
    assert row.received_kib is None or row.received_kib >= 0


def test_what_cannot_be_read_is_no_number(tmp_path: Path) -> None:
    """An old kernel, a virtual machine: nulls, and no meter is named."""
    readings = Readings(tmp_path / "gone", proc=tmp_path, sys=tmp_path, cgroups=tmp_path)
    row = readings.row()
    assert (row.cpu_stalled_percent, row.memory_stalled_percent, row.throttled_percent) == (None, None, None)
    assert (row.temperature_c, row.energy_joules, row.energy_source, row.disk_free_mib) == (None, None, None, None)
