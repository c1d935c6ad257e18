//! The program in the example image: a server that says who and where it is, and small tools for tests in images
//! that hold nothing else.
//!
//! Not for: production; it reads one request per connection and trusts its clients.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

mod client;
mod http;
mod serve;
mod signals;
mod tools;

use std::process::ExitCode;

const USAGE: &str = "\
usage: server COMMAND [ARGUMENT…]

  serve                          HTTP and UDP on :8080; / /env /file?path= /healthz /readyz /fail
                                 environment: PORT, GREETING, FILE (shown by /), FILES (directory for /file)
  lines N [MILLISECONDS]         print numbered lines, then exit
  exit CODE                      exit at once
  sleep SECONDS                  exit 0 after that time, 143 on SIGTERM
  ignore-term                    outlive SIGTERM
  eat MEGABYTES                  allocate and touch memory, then sleep
  get URL [COUNT]                print the body of each answer; fails unless all are 2xx
  udp HOST:PORT [COUNT]          print each answer and who sent it
  connect HOST:PORT [MILLISECONDS]
                                 print `connected`, or `refused ECONNREFUSED` and the like
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        [] | ["serve"] => serve::run(),
        ["lines", count] => tools::lines(count, "0"),
        ["lines", count, interval] => tools::lines(count, interval),
        ["exit", code] => tools::exit(code),
        ["sleep", seconds] => tools::sleep(seconds),
        ["ignore-term"] => tools::ignore_term(),
        ["eat", megabytes] => tools::eat(megabytes),
        ["get", url] => client::get(url, "1"),
        ["get", url, count] => client::get(url, count),
        ["udp", address] => client::udp(address, "1"),
        ["udp", address, count] => client::udp(address, count),
        ["connect", address] => client::connect(address, "5000"),
        ["connect", address, timeout] => client::connect(address, timeout),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(format!("unknown command: {}\n\n{USAGE}", arguments.join(" "))),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::from(2)
    })
}

/// Reads a number from the command line.
fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}
