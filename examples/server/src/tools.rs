//! What containers of tests do when they do not serve.

use std::{hint::black_box, io::Write, process::ExitCode, time::Duration};

use crate::{number, signals};

/// Numbered lines from 1; stops quietly when nobody reads.
pub(crate) fn lines(count: &str, interval: &str) -> Result<ExitCode, String> {
    let (count, interval) = (number::<u64>(count)?, Duration::from_millis(number(interval)?));
    signals::block().exit_on_arrival();
    let mut out = std::io::stdout().lock();
    for n in 1..=count {
        if writeln!(out, "line {n}").and_then(|()| out.flush()).is_err() {
            return Ok(ExitCode::FAILURE);
        }
        std::thread::sleep(interval);
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn exit(code: &str) -> Result<ExitCode, String> {
    Ok(ExitCode::from(number::<u8>(code)?))
}

pub(crate) fn sleep(seconds: &str) -> Result<ExitCode, String> {
    let seconds = Duration::try_from_secs_f64(number(seconds)?).map_err(|error| error.to_string())?;
    signals::block().exit_on_arrival();
    std::thread::sleep(seconds);
    Ok(ExitCode::SUCCESS)
}

/// Says that the signal came and goes on.
pub(crate) fn ignore_term() -> Result<ExitCode, String> {
    let termination = signals::block();
    println!("ignoring SIGTERM");
    loop {
        termination.wait();
        println!("SIGTERM ignored");
    }
}

/// Megabyte by megabyte, so that the limit is met at a known point.
pub(crate) fn eat(megabytes: &str) -> Result<ExitCode, String> {
    let count = number::<usize>(megabytes)?;
    signals::block().exit_on_arrival();
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    for n in 1..=count {
        eaten.push(black_box(vec![1; 1 << 20]));
        if n % 16 == 0 || n == count {
            println!("ate {n} MB");
        }
    }
    black_box(&eaten);
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
