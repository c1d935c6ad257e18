//! `[p]` What the machine as a whole uses, from the texts of /proc: as cAdvisor counts the root cgroup.

use orlop_runtime::cgroup::Stats;

/// The kernel's `USER_HZ` is a constant of its interface.
const TICK_NS: u64 = 10_000_000;

/// Counters of the machine; what a text does not say is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Machine {
    /// Processor time, memory.
    pub(crate) stats: Stats,
    /// Page faults; those that read from a disk.
    pub(crate) faults: [u64; 2],
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// Bytes of swap, and those of it that are free.
    pub(crate) swap: [u64; 2],
    /// Tasks there are.
    pub(crate) tasks: u64,
    /// Seconds since the epoch when it was started.
    pub(crate) booted: u64,
}

/// Texts of /proc.
pub(crate) struct Texts<'a> {
    pub(crate) stat: &'a str,
    pub(crate) meminfo: &'a str,
    pub(crate) vmstat: &'a str,
    pub(crate) loadavg: &'a str,
}

impl Machine {
    pub(crate) fn of(texts: &Texts<'_>) -> Machine {
        let Texts { stat, meminfo, vmstat, loadavg } = *texts;
        // user nice system idle iowait irq softirq steal; guests are in user.
        let fields: Vec<u64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_ascii_whitespace()
            .skip(1)
            .map_while(|field| field.parse().ok())
            .collect();
        let ticks: u64 = [0, 1, 2, 5, 6, 7].into_iter().filter_map(|at| fields.get(at)).sum();
        let bytes = |name: &str| -> u64 {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
            kib.unwrap_or(0).saturating_mul(1024)
        };
        let usage = bytes("MemTotal").saturating_sub(bytes("MemFree"));
        Machine {
            stats: Stats {
                cpu_ns: ticks.saturating_mul(TICK_NS),
                memory_usage: usage,
                memory_working_set: usage.saturating_sub(bytes("Inactive(file)")),
                memory_rss: bytes("AnonPages"),
                ..Stats::default()
            },
            faults: [field(vmstat, "pgfault"), field(vmstat, "pgmajfault")],
            memory: bytes("MemTotal"),
            swap: [bytes("SwapTotal"), bytes("SwapFree")],
            tasks: tasks(loadavg).unwrap_or(0),
            booted: field(stat, "btime"),
        }
    }
}

/// `name 7`
fn field(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

/// `0.00 0.01 0.05 1/234 5678`: the number of all tasks stands behind the slash.
fn tasks(loadavg: &str) -> Option<u64> {
    loadavg.split(' ').nth(3)?.split_once('/')?.1.parse().ok()
}

/// A process, from its `stat` and `status`. In the former user and system time are fields 14 and 15 and its start 22,
/// counted behind its name, which may hold anything.
pub(crate) fn process(stat: &str, status: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Process {
        cpu_ns: number(11)?.saturating_add(number(12)?).saturating_mul(TICK_NS),
        started_ticks: number(19)?,
        resident: kib("VmRSS")?,
        virtual_bytes: kib("VmSize")?,
        threads: number(17)?,
    })
}

/// A process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) cpu_ns: u64,
    /// After the boot, in hundredths of seconds.
    pub(crate) started_ticks: u64,
    pub(crate) resident: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) threads: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_what_is_not_idle_and_not_easily_given_back() {
        let texts = Texts {
            stat: "cpu  100 10 50 9999 8888 5 3 2 77 0\ncpu0 1 1 1 1\nbtime 1700000000\n",
            meminfo: "MemTotal: 1000 kB\nMemFree:  300 kB\nInactive(file):  200 kB\nAnonPages: 50 kB\nSwapTotal: 8 kB\nSwapFree: 2 kB\n",
            vmstat: "pgfault 12\npgmajfault 3\n",
            loadavg: "0.52 0.58 0.59 1/234 9876\n",
        };
        let seen = Machine::of(&texts);
        assert_eq!((seen.stats.cpu_ns, seen.stats.memory_working_set), (1_700_000_000, 500 * 1024));
        assert_eq!((seen.stats.memory_usage, seen.stats.memory_rss), (700 * 1024, 50 * 1024));
        assert_eq!((seen.faults, seen.swap), ([12, 3], [8 * 1024, 2 * 1024]));
        assert_eq!((seen.tasks, seen.booted), (234, 1_700_000_000));
        let nothing = Texts { stat: "", meminfo: "", vmstat: "", loadavg: "" };
        assert_eq!(Machine::of(&nothing), Machine::default());
    }

    #[test]
    fn a_process_may_have_any_name() {
        let stat =
            "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 4321 8192 25 18446744073709551615";
        let seen = process(stat, "Name:\ta\nVmSize:\t    200 kB\nVmRSS:\t     100 kB\n").unwrap();
        assert_eq!(
            (seen.cpu_ns, seen.started_ticks, seen.resident, seen.threads),
            (2_000_000_000, 4321, 102_400, 9)
        );
        assert_eq!((seen.virtual_bytes, process("7 (a", "")), (204_800, None));
    }
}
