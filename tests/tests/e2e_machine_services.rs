//! Services with what the kernel that runs the other tests may not have: sockets of SCTP, and the rules of kube-proxy's IPVS mode.
//! (Debian 13 with its kernel 6.12, under qemu.) The tests are those of `root_services` whose names begin with `machine::`.
#![allow(clippy::print_stdout, reason = "what was run is worth seeing")]

use std::time::Duration;

use orlop_tests::{machine::Machine, playground::given};

#[test]
#[ignore = "e2e tier"]
fn sctp_and_ipvs_on_a_machine_that_has_them() {
    let mut m = Machine::new(given("ORLOP_MACHINE_SERVICES"), &[given("ORLOP_TEST_SERVICES")]);
    m.boot();
    let tests = "/opt/orlop/root_services-* --ignored --test-threads=1 machine::";
    let said = m.run_for(tests, Duration::from_secs(900));
    println!("{}", said.stdout);
    assert!(said.ok && said.stdout.contains(" 0 failed;") && !said.stdout.contains(" 0 passed;"));
}
