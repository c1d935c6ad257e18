//! A program that is only a creator, for tests of the runtime: `creator create <bundle> <id> <status fd>`.

fn main() {
    let args: Vec<String> = std::env::args().skip(2).collect();
    orlop_runtime::create::create_main(&args)
}
