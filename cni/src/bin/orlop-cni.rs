//! The CNI plugin as a program of its own.

fn main() -> std::process::ExitCode {
    orlop_cni::plugin::main()
}
