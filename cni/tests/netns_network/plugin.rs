//! The CNI plugin as runtimes use it: a process per request.

use std::{
    collections::HashSet,
    io::Write,
    net::{IpAddr, Ipv4Addr},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{Node, Ns};

/// One request. `Ok` is what a successful one printed, `Err` the error object.
fn call(node: &Node, command: &str, id: &str, netns: Option<&Ns>, extra: Value) -> Result<Value, Value> {
    let output = start(node, command, id, netns, extra).wait_with_output().unwrap();
    let printed = match output.stdout.as_slice() {
        [] => Value::Null,
        text => serde_json::from_slice(text).unwrap(),
    };
    if output.status.success() { Ok(printed) } else { Err(printed) }
}

/// A process that has its request.
fn start(node: &Node, command: &str, id: &str, netns: Option<&Ns>, extra: Value) -> Child {
    let mut config = json!({
        "cniVersion": "1.1.0", "name": "pods", "type": "orlop-cni",
        "podCIDR": node.pod_cidr, "clusterCIDR": "10.244.0.0/16",
        "stateDir": node.dir.path(), "mtu": 1450,
    });
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    // So that a test can say it where it says all else.
    let interface = config.as_object_mut().unwrap().remove("CNI_IFNAME").unwrap_or_else(|| "eth0".into());
    let mut process = Command::new("nsenter")
        .arg(format!("--net={}", node.ns.path().display()))
        .arg(env!("CARGO_BIN_EXE_orlop-cni"))
        .env("CNI_COMMAND", command)
        .env("CNI_PATH", "/usr/lib/cni")
        .env("CNI_CONTAINERID", id)
        .env("CNI_NETNS", netns.map(Ns::path).unwrap_or_default())
        .env("CNI_IFNAME", interface.as_str().unwrap())
        .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-{id}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    process
}

#[test]
#[ignore = "netns tier"]
fn a_pod_is_added_checked_and_deleted() {
    let (node, pod) = (Node::new("10.244.1.0/24"), Ns::new());
    node.ns.ip("addr add 192.0.2.1/32 dev lo");
    let result = call(&node, "ADD", "c1", Some(&pod), json!({})).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.244.1.2/32");
    assert_eq!(result["interfaces"][1]["sandbox"], json!(pod.path()));
    assert_eq!(result["interfaces"][0]["name"], json!(node.links()[0]));
    assert_eq!(result["interfaces"][1]["mac"], pod.ip_json("link show dev eth0")[0]["address"]);
    assert!(node.ns.ping([10, 244, 1, 2]));

    let previous = json!({ "prevResult": result });
    call(&node, "CHECK", "c1", Some(&pod), previous.clone()).unwrap();
    pod.ip("route del default");
    let error = call(&node, "CHECK", "c1", Some(&pod), previous).unwrap_err();
    assert_eq!(error["code"], 5);
    assert!(error["details"].as_str().unwrap().contains("route add default"), "{error}");

    for _ in 0..2 {
        assert_eq!(call(&node, "DEL", "c1", Some(&pod), json!({})), Ok(Value::Null));
        // What comes next may call its interface so, and nothing passes any more.
        assert!(pod.ip_json("link show").iter().all(|link| link["ifname"] != "eth0"));
        assert!(!node.ns.ping([10, 244, 1, 2]));
        assert_eq!(node.routes(), ["10.244.1.0/24 unreachable"]);
    }
    node.settle();
    assert_eq!(node.links(), Vec::<String>::new());
    assert_eq!(call(&node, "DEL", "never", None, json!({})), Ok(Value::Null));
}

#[test]
#[ignore = "netns tier"]
fn both_families_are_in_the_result_and_checked() {
    let (node, pod) = (Node::new("10.244.1.0/24"), Ns::new());
    node.ns.ip("addr add 2001:db8::1/128 dev lo");
    let both = json!({ "podCIDRs": ["fd00:10:0:1::/64", "10.244.1.0/24"], "clusterCIDRs": ["fd00:10::/56"] });
    let result = call(&node, "ADD", "c1", Some(&pod), both.clone()).unwrap();
    assert_eq!(
        result["ips"][0],
        json!({ "address": "fd00:10:0:1::2/128", "gateway": "fe80::1", "interface": 1 })
    );
    assert_eq!(result["ips"][1]["address"], "10.244.1.2/32");
    assert_eq!(result["routes"][0], json!({ "dst": "::/0", "gw": "fe80::1" }));
    assert!(node.ns.ping("fd00:10:0:1::2".parse::<IpAddr>().unwrap()));
    let mut previous = both;
    previous["prevResult"] = result;
    call(&node, "CHECK", "c1", Some(&pod), previous.clone()).unwrap();
    pod.ip("-6 addr flush dev eth0 scope global");
    let error = call(&node, "CHECK", "c1", Some(&pod), previous.clone()).unwrap_err();
    assert!(error["details"].as_str().unwrap().contains("addr add fd00:10:0:1::2/128"), "{error}");
    call(&node, "DEL", "c1", Some(&pod), previous).unwrap();
    assert_eq!(node.links(), Vec::<String>::new());
}

#[test]
#[ignore = "netns tier"]
fn rules_that_are_up_stay_and_rules_that_are_gone_come_back() {
    let (node, pods) = (Node::new("10.244.1.0/24"), [Ns::new(), Ns::new(), Ns::new(), Ns::new()]);
    let add = |id: &str, pod: &Ns, extra| call(&node, "ADD", id, Some(pod), extra).unwrap();
    let rules = || node.ns.exec(&["nft", "-a", "list", "table", "ip", "orlop-net-pods"]);
    add("c1", &pods[0], json!({}));
    let first = rules();
    assert!(first.contains("masquerade"), "{first}");
    add("c2", &pods[1], json!({}));
    assert_eq!(rules(), first, "handles would be others");
    node.ns.exec(&["nft", "flush", "chain", "ip", "orlop-net-pods", "postrouting"]);
    add("c3", &pods[2], json!({}));
    assert!(rules().contains("ip daddr != 10.244.0.0/16"));
    node.ns.exec(&["nft", "delete", "table", "ip", "orlop-net-pods"]);
    add("c4", &pods[3], json!({ "clusterCIDR": "10.244.0.0/20" }));
    assert!(rules().contains("ip daddr != 10.244.0.0/20"));
}

#[test]
#[ignore = "netns tier"]
fn networks_and_interfaces_of_a_container_do_not_know_each_other() {
    let (node, pod) = (Node::new("10.244.1.0/24"), Ns::new());
    node.ns.ip("addr add 192.0.2.1/32 dev lo");
    let dir = node.dir.path().join("second");
    let second = || json!({ "name": "second", "podCIDR": "10.9.1.0/24", "clusterCIDR": "10.9.0.0/16", "stateDir": dir });
    let on = |interface: &str, command: &str, mut extra: Value| {
        extra["CNI_IFNAME"] = interface.into();
        call(&node, command, "c1", Some(&pod), extra)
    };
    on("eth0", "ADD", json!({})).unwrap();
    let result = on("net1", "ADD", second()).unwrap();
    assert_eq!(result["routes"], json!([{ "dst": "10.9.0.0/16", "gw": "169.254.1.1" }]));
    let third = on("net2", "ADD", json!({})).unwrap();
    assert_eq!(third["ips"][0]["address"], "10.244.1.3/32");
    let peer = Ns::new();
    call(&node, "ADD", "c2", Some(&peer), second()).unwrap();
    assert!(node.ns.ping([10, 244, 1, 2]) && peer.ping([10, 9, 1, 2]));
    assert!(pod.ip("route show default").contains("dev eth0"));

    let mut previous = second();
    previous["prevResult"] = result;
    on("net1", "CHECK", previous).unwrap();
    // The runtime knows of one attachment to the second network: only the other one goes.
    let mut kept = second();
    kept["cni.dev/valid-attachments"] = json!([{ "containerID": "c2", "ifname": "eth0" }]);
    assert_eq!(on("", "GC", kept), Ok(Value::Null));
    assert!(node.ns.ping([10, 244, 1, 2]) && node.ns.ping([10, 9, 1, 3]) && !peer.ping([10, 9, 1, 2]));
    call(&node, "DEL", "c2", Some(&peer), second()).unwrap();
    on("eth0", "DEL", json!({})).unwrap();
    assert!(!node.ns.ping([10, 244, 1, 2]));
    let third = format!("10.244.1.3 {}", node.links()[0]);
    assert_eq!(node.routes(), ["10.244.1.0/24 unreachable", &third, "10.9.1.0/24 unreachable"]);
}

#[test]
#[ignore = "netns tier"]
fn a_runtimes_rates_are_kept() {
    let (node, pod) = (Node::new("10.244.1.0/24"), Ns::new());
    let rates = json!({ "runtimeConfig": { "bandwidth": {
        "ingressRate": 5_000_000, "ingressBurst": 4_294_967_295_u64, "egressRate": 4_000_000, "egressBurst": 4_294_967_295_u64 } } });
    call(&node, "ADD", "c1", Some(&pod), rates).unwrap();
    let disciplines = [node.ns.exec(&["tc", "qdisc"]), pod.exec(&["tc", "qdisc"])].concat();
    assert!(disciplines.contains("rate 5Mbit") && disciplines.contains("rate 4Mbit"), "{disciplines}");
}

#[test]
#[ignore = "netns tier"]
fn addresses_can_be_another_plugins_business() {
    let (node, pod) = (Node::new("10.244.1.0/24"), Ns::new());
    node.ns.ip("addr add 192.0.2.1/32 dev lo");
    let data = node.dir.path().join("host-local");
    let given = || {
        let entries = std::fs::read_dir(data.join("pods")).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.parse::<Ipv4Addr>().is_ok()).collect::<Vec<_>>()
    };
    let ipam = |subnet: &str| {
        json!({ "cniVersion": "1.0.0", "ipam": { "type": "host-local", "dataDir": data,
            "ranges": [[{ "subnet": subnet, "rangeStart": subnet.replace("0/24", "200") }]] } })
    };
    let result = call(&node, "ADD", "c1", Some(&pod), ipam("10.244.1.0/24")).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.244.1.200/32");
    assert_eq!(given(), ["10.244.1.200"]);
    assert!(node.ns.ping([10, 244, 1, 200]));
    let mut previous = ipam("10.244.1.0/24");
    previous["prevResult"] = result;
    assert_eq!(call(&node, "CHECK", "c1", Some(&pod), previous), Ok(Value::Null));
    for _ in 0..2 {
        assert_eq!(call(&node, "DEL", "c1", Some(&pod), ipam("10.244.1.0/24")), Ok(Value::Null));
        assert_eq!(given(), Vec::<String>::new());
    }
    // An address that is none of the network's is given back.
    let error = call(&node, "ADD", "c1", Some(&pod), ipam("10.9.1.0/24")).unwrap_err();
    assert_eq!((&error["code"], given()), (&json!(7), Vec::new()), "{error}");
    let error = call(&node, "ADD", "c1", Some(&pod), json!({ "ipam": { "type": "none" } })).unwrap_err();
    assert_eq!(error["code"], 100);
    assert!(
        error["details"].as_str().unwrap().starts_with(r#"failed to find plugin "none" in path ["#),
        "{error}"
    );
}

#[test]
#[ignore = "netns tier"]
fn many_processes_at_once_give_each_pod_its_own_address() {
    const PODS: usize = 12;
    let node = Node::new("10.244.1.0/24");
    let pods: Vec<_> = (0..PODS).map(|n| (format!("c{n}"), Ns::new())).collect();
    let add = |(id, pod): &(String, Ns)| {
        call(&node, "ADD", id, Some(pod), json!({})).unwrap()["ips"][0]["address"].clone()
    };
    let mut addresses: Vec<String> = std::thread::scope(|scope| {
        let calls: Vec<_> = pods.iter().map(|pod| scope.spawn(move || add(pod))).collect();
        calls.into_iter().map(|call| call.join().unwrap().to_string()).collect()
    });
    addresses.sort();
    addresses.dedup();
    assert_eq!((addresses.len(), node.links().len()), (PODS, PODS));

    let keep = json!({ "cni.dev/valid-attachments": [{ "containerID": "c3", "ifname": "eth0" }] });
    assert_eq!(call(&node, "GC", "", None, keep), Ok(Value::Null));
    assert_eq!(node.links().len(), 1);
    assert!(pods[3].1.ip("addr show dev eth0").contains("10.244.1."));
}

#[test]
#[ignore = "netns tier"]
fn killed_at_any_moment_a_request_can_be_made_again_or_taken_back() {
    let (node, pod) = (Node::new("10.244.1.0/24"), Ns::new());
    node.ns.ip("addr add 192.0.2.1/32 dev lo");
    let mut unfinished = 0;
    for round in 0..60 {
        let mut process = start(&node, "ADD", "c1", Some(&pod), json!({}));
        std::thread::sleep(Duration::from_micros(round * 500));
        process.kill().unwrap();
        unfinished += u32::from(!process.wait().unwrap().success());
        if round % 2 == 0 {
            let result = call(&node, "ADD", "c1", Some(&pod), json!({})).unwrap();
            let address: IpAddr =
                result["ips"][0]["address"].as_str().unwrap().trim_end_matches("/32").parse().unwrap();
            assert!(node.ns.ping(address), "round {round}");
            assert_eq!(node.links().len(), 1, "round {round}");
        }
        call(&node, "DEL", "c1", Some(&pod), json!({})).unwrap();
        assert_eq!(node.links(), Vec::<String>::new(), "round {round}");
        assert_eq!(node.routes(), ["10.244.1.0/24 unreachable"], "round {round}");
        node.with(async |net| assert_eq!(net.attached().await, [], "round {round}"));
    }
    println!("{unfinished} of 60 requests were killed before their end");
}

/// Where one container is, as its runtime knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    Attached(Ipv4Addr),
    /// A request was killed.
    Unclear,
}

/// One runtime's share of the work: its containers, one request after the other, some of them killed.
fn churn(
    node: &Node,
    containers: &mut [(String, Ns, Known)],
    held: &Mutex<HashSet<Ipv4Addr>>,
    seed: u64,
) -> u32 {
    let mut state = seed;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut killed = 0;
    for _ in 0..REQUESTS / RUNTIMES {
        let chosen = usize::try_from(random(containers.len() as u64)).unwrap();
        let (id, ns, known) = &mut containers[chosen];
        let add = match known {
            Known::Nothing => true,
            Known::Attached(_) => false,
            Known::Unclear => random(2) == 0,
        };
        if let Known::Attached(address) = known {
            // From here on it may go to another container.
            held.lock().unwrap().remove(address);
        }
        let mut process = start(node, if add { "ADD" } else { "DEL" }, id, Some(ns), json!({}));
        if random(3) == 0 {
            std::thread::sleep(Duration::from_micros(random(60_000)));
            process.kill().unwrap();
        }
        let output = process.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        *known = match (output.status.success(), add) {
            (true, true) => {
                let address = attached_as(&said).unwrap();
                assert!(held.lock().unwrap().insert(address), "{address} was given twice (seed {seed})");
                Known::Attached(address)
            }
            (true, false) => Known::Nothing,
            (false, _) => {
                assert_eq!(output.status.code(), None, "{said} (seed {seed})");
                // Killed after its answer, it had done all of it; a runtime that killed it does not read that.
                assert!(said.is_empty() || (add && attached_as(&said).is_some()), "{said} (seed {seed})");
                killed += 1;
                Known::Unclear
            }
        };
    }
    killed
}

/// The address in a whole answer to an ADD.
fn attached_as(said: &str) -> Option<Ipv4Addr> {
    serde_json::from_str(said).ok().map(|result| address_of(&result))
}

fn address_of(result: &Value) -> Ipv4Addr {
    result["ips"][0]["address"].as_str().unwrap().trim_end_matches("/32").parse().unwrap()
}

const REQUESTS: usize = 1000;
const RUNTIMES: usize = 20;

#[test]
#[ignore = "netns tier"]
fn of_a_thousand_requests_many_are_killed_and_no_address_is_given_twice_or_lost() {
    let node = Node::new("10.244.1.0/26");
    let mut shares: Vec<Vec<_>> = (0..RUNTIMES)
        .map(|runtime| (0..3).map(|n| (format!("c{runtime}-{n}"), Ns::new(), Known::Nothing)).collect())
        .collect();
    let held = Mutex::default();
    let seed = u64::from(std::process::id());
    let killed: u32 = std::thread::scope(|scope| {
        let (node, held) = (&node, &held);
        let runtimes = shares.iter_mut().zip(1..);
        let runtimes: Vec<_> =
            runtimes.map(|(share, nth)| scope.spawn(move || churn(node, share, held, seed * nth))).collect();
        runtimes.into_iter().map(|runtime| runtime.join().unwrap()).sum()
    });
    println!("{killed} of {REQUESTS} requests were killed");
    assert!(killed > 50, "only {killed} of {REQUESTS} requests were killed (seed {seed})");

    let containers: Vec<_> = shares.into_iter().flatten().collect();
    let attached = containers.iter().filter_map(|(id, ns, known)| match known {
        Known::Attached(address) => Some((id, ns, *address)),
        _ => None,
    });
    let attached: Vec<_> = attached.collect();
    let valid: Vec<_> =
        attached.iter().map(|(id, ..)| json!({"containerID": id, "ifname": "eth0"})).collect();
    assert_eq!(call(&node, "GC", "", None, json!({"cni.dev/valid-attachments": valid})), Ok(Value::Null));
    // As the kernel has it, and as the ledger has it.
    assert_eq!(node.links().len(), attached.len(), "seed {seed}");
    for (id, ns, address) in &attached {
        let found = ns.ip("-4 -o addr show dev eth0");
        assert!(found.contains(&format!("{address}/32")), "{id}: {found} (seed {seed})");
    }
    let live = node.with_named("pods", async |net| net.attached().await.len());
    assert_eq!(live, attached.len(), "seed {seed}");
    // All others can be given: none is lost.
    let one_more = [("one-more".to_owned(), Ns::new(), Known::Nothing)];
    for (id, ns, known) in containers.iter().chain(&one_more) {
        if !matches!(known, Known::Attached(_)) {
            let address = address_of(&call(&node, "ADD", id, Some(ns), json!({})).unwrap());
            assert!(held.lock().unwrap().insert(address), "{address} was given twice (seed {seed})");
        }
    }
    assert_eq!((node.links().len(), held.lock().unwrap().len()), (61, 61));
    assert_eq!(call(&node, "ADD", "too-many", Some(&Ns::new()), json!({})).unwrap_err()["code"], 11);
}

#[test]
#[ignore = "netns tier"]
fn versions_status_and_errors_are_as_specified() {
    let (node, pod) = (Node::new("10.244.1.0/30"), Ns::new());
    let versions = call(&node, "VERSION", "", None, json!({})).unwrap();
    assert_eq!(versions["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    assert_eq!(call(&node, "STATUS", "", None, json!({})), Ok(Value::Null));
    let code = |result: Result<Value, Value>| result.unwrap_err()["code"].as_u64().unwrap();
    assert_eq!(code(call(&node, "STATUS", "", None, json!({ "cniVersion": "9.9.9" }))), 1);
    assert_eq!(code(call(&node, "ADD", "c1", None, json!({}))), 4);
    assert_eq!(code(call(&node, "ADD", "c1", Some(&node.ns), json!({}))), 4);
    assert_eq!(code(call(&node, "STATUS", "", None, json!({ "podCIDR": "10.244.1.0/31" }))), 7);
    call(&node, "ADD", "c1", Some(&pod), json!({ "cniVersion": "0.4.0" })).unwrap();
    let full = call(&node, "ADD", "c2", Some(&Ns::new()), json!({})).unwrap_err();
    assert_eq!(full["code"], 11);
    assert_eq!(full["details"], "no address is free in 10.244.1.0/30: all 1 are assigned");
}
