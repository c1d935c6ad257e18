//! Numbers of system calls by name and architecture. Pure.

/// An architecture as the kernel tells it to filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit Intel. Its x32 numbers are refused: no kernel a node runs on has them.
    X86_64,
    /// 32-bit programs on a 64-bit Intel kernel.
    X86,
    /// 64-bit Arm.
    Aarch64,
}

impl Arch {
    /// What programs on this machine may be made for.
    pub const NATIVE: &'static [Arch] =
        if cfg!(target_arch = "aarch64") { &[Arch::Aarch64] } else { &[Arch::X86_64, Arch::X86] };

    /// `AUDIT_ARCH_…`.
    pub fn audit(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::X86 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
        }
    }

    /// As profiles of ours say it.
    pub fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::X86 => "x86",
            Arch::Aarch64 => "aarch64",
        }
    }

    fn column(self) -> usize {
        match self {
            Arch::X86_64 => 1,
            Arch::X86 => 2,
            Arch::Aarch64 => 3,
        }
    }

    /// Every known call.
    pub fn calls(self) -> impl Iterator<Item = (&'static str, u32)> {
        let lines = include_str!("syscalls.tsv").lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(move |line| {
            let mut columns = line.split('\t');
            let name = columns.next()?;
            Some((name, columns.nth(self.column() - 1)?.parse().ok()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_agree_with_the_c_library() {
        let number = |arch: Arch, name: &str| arch.calls().find(|(known, _)| *known == name).map(|(_, n)| n);
        let native = Arch::NATIVE[0];
        for (name, expected) in [
            ("read", libc::SYS_read),
            ("execve", libc::SYS_execve),
            ("openat2", libc::SYS_openat2),
            ("faccessat2", libc::SYS_faccessat2),
            ("clone3", libc::SYS_clone3),
            ("newfstatat", libc::SYS_newfstatat),
        ] {
            assert_eq!(number(native, name).map(i64::from), Some(expected), "{name}");
        }
        assert_eq!(number(Arch::X86, "execve"), Some(11));
        assert_eq!(number(Arch::Aarch64, "execve"), Some(221));
        assert_eq!(number(Arch::X86_64, "waitpid"), None);
    }
}
