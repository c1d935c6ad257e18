use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

const GOOD: &str = r#"{"cniVersion":"1.1.0","name":"pods","type":"orlop-cni","podCIDR":"10.244.1.0/24",
    "clusterCIDR":"10.244.0.0/16",
    "cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"},{"containerID":"c1","ifname":"net1"}],
    "prevResult":{"interfaces":[{"name":"eth0","sandbox":"/x","mac":"0a:58:0a:f4:01:02"}],
        "ips":[{"address":"10.244.1.2/32","interface":0}],"routes":[{"dst":"0.0.0.0/0"}]}}"#;

/// The good configuration with some of its text changed.
fn with(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    GOOD.replace(old, new)
}

/// Environment as `NAME=value` words without their `CNI_`.
fn ask(environment: &str, stdin: &str) -> Result<Request, Fault> {
    let pairs = environment.split_whitespace().filter_map(|word| word.split_once('='));
    let environment = Environment(pairs.map(|(k, v)| (format!("CNI_{k}"), v.to_owned())).collect());
    config(stdin.as_bytes()).and_then(|config| config.request(&environment))
}

fn check(environment: &str, stdin: &str, expected: Expect) {
    expected.assert_eq(&match ask(environment, stdin) {
        Ok(request) => format!("{request:?}"),
        Err(Fault { code, msg, details, .. }) => format!("{code}: {msg} ({details})"),
    });
}

const ADD: &str = "COMMAND=ADD CONTAINERID=c1 NETNS=/run/netns/x IFNAME=eth0";

#[test]
fn commands_become_requests() {
    let args = "ARGS=K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web";
    check(
        &format!("{ADD} {args}"),
        GOOD,
        expect![[
            r#"Add(Attachment { uid: "pods/c1/eth0", namespace: "ns", name: "web", netns: "/run/netns/x", interface: "eth0", addresses: [], mac: None, default_route: true, bandwidth: Bandwidth { ingress: None, egress: None } })"#
        ]],
    );
    check(
        "COMMAND=CHECK CONTAINERID=c1 NETNS=/run/netns/x IFNAME=eth0",
        GOOD,
        expect![[
            r#"Check { attachment: Attachment { uid: "pods/c1/eth0", namespace: "container", name: "c1", netns: "/run/netns/x", interface: "eth0", addresses: [], mac: Some(0a:58:0a:f4:01:02), default_route: true, bandwidth: Bandwidth { ingress: None, egress: None } }, addresses: [10.244.1.2], routed: true }"#
        ]],
    );
    check(
        "COMMAND=DEL CONTAINERID=c1 IFNAME=eth0",
        GOOD,
        expect![[r#"Del { uid: "pods/c1/eth0", netns: None, interface: "eth0" }"#]],
    );
    check(
        "COMMAND=DEL CONTAINERID=c1 IFNAME=net1 NETNS=/gone",
        &with("1.1.0", "0.3.1"),
        expect![[r#"Del { uid: "pods/c1/net1", netns: Some("/gone"), interface: "net1" }"#]],
    );
    check("COMMAND=GC", GOOD, expect![[r#"Gc { keep: ["pods/c1/eth0", "pods/c1/net1"] }"#]]);
    let both = with(r#""prevResult""#, r#""cni.dev/attachments":[],"prevResult""#);
    assert_eq!(ask("COMMAND=GC", &both), ask("COMMAND=GC", GOOD));
    check(
        "COMMAND=GC",
        &with("valid-attachments", "attachments"),
        expect![[r#"Gc { keep: ["pods/c1/eth0", "pods/c1/net1"] }"#]],
    );
    check("COMMAND=STATUS", GOOD, expect!["Status"]);
}

#[test]
fn an_interface_that_is_not_the_first_has_no_default_route() {
    let of = |environment: &str, stdin: &str| match ask(environment, stdin) {
        Ok(Request::Add(attachment)) => (attachment.uid, attachment.interface, attachment.default_route),
        other => panic!("{other:?}"),
    };
    let second = ADD.replace("eth0", "net1");
    assert_eq!(of(ADD, GOOD), ("pods/c1/eth0".into(), "eth0".into(), true));
    assert_eq!(of(&second, GOOD), ("pods/c1/net1".into(), "net1".into(), false));
    let gateway = |yes| with(r#""type""#, &format!(r#""isDefaultGateway":{yes},"type""#));
    assert!(of(&second, &gateway(true)).2 && !of(ADD, &gateway(false)).2);
}

#[test]
fn wishes_come_from_the_runtime_the_configuration_or_the_user() {
    let of = |args: &str, fields: &str| {
        let stdin = with(r#""type""#, &format!(r#"{fields}"type""#));
        match ask(&format!("{ADD} {args}"), &stdin) {
            Ok(Request::Add(attachment)) => format!("{:?} {:?}", attachment.addresses, attachment.mac),
            Ok(other) => format!("{other:?}"),
            Err(fault) => format!("{}: {}", fault.code, fault.text()),
        }
    };
    let runtime = r#""runtimeConfig":{"ips":["10.244.1.9/24"],"mac":"0a:00:00:00:00:01"},"#;
    let config = r#""args":{"cni":{"ips":["10.244.1.8"],"mac":"0a:00:00:00:00:02"},"other":1},"#;
    let user = "ARGS=IP=10.244.1.7;MAC=0a:00:00:00:00:03";
    assert_eq!(of("", ""), "[] None");
    assert_eq!(of(user, ""), "[10.244.1.7] Some(0a:00:00:00:00:03)");
    assert_eq!(of(user, config), "[10.244.1.8] Some(0a:00:00:00:00:02)");
    assert_eq!(of(user, &format!("{runtime}{config}")), "[10.244.1.9] Some(0a:00:00:00:00:01)");
    expect![[r#"
        4: the address "x" that is asked for is none: invalid IP address syntax
        4: the hardware address "01:00:00:00:00:01" that is asked for cannot be one
        7: the address "fd00::x/64" that is asked for is none: invalid IP address syntax
        2: ips ["10.244.1.7", "10.244.1.8"]: an interface has one address of a family
        2: ips ["fd00::7", "fd00::8"]: an interface has one address of a family
        7: the hardware address "zz" that is asked for cannot be one
        2: portMappings: put the plugin portmap behind this one
        7: the network configuration is not valid: invalid value: integer `-1`, expected u64
        2: ipMasq false: what leaves clusterCIDR is always masqueraded
        7: ipam.type is malformed"#]]
    .assert_eq(
        &[
            of("ARGS=IP=x", ""),
            of("ARGS=MAC=01:00:00:00:00:01", ""),
            of("", r#""runtimeConfig":{"ips":["fd00::x/64"]},"#),
            of("", r#""runtimeConfig":{"ips":["10.244.1.7","10.244.1.8"]},"#),
            of(
                "",
                r#""podCIDRs":["10.244.1.0/24","fd00::/64"],"runtimeConfig":{"ips":["fd00::7","fd00::8"]},"#,
            ),
            of("", r#""runtimeConfig":{"mac":"zz"},"#),
            of("", r#""runtimeConfig":{"portMappings":[{"hostPort":80}]},"#),
            of("", r#""runtimeConfig":{"bandwidth":{"ingressRate":-1}},"#),
            of("", r#""ipMasq":false,"#),
            of("", r#""ipam":{"type":"../dhcp"},"#),
        ]
        .join("\n"),
    );
    let both = r#""podCIDRs":["10.244.1.0/24","fd00::/64"],"#;
    assert_eq!(of("ARGS=IP=fd00::7,10.244.1.7", both), "[fd00::7, 10.244.1.7] None");
    assert_eq!(of("", r#""ipam":{},"ipMasq":true,"runtimeConfig":{"portMappings":[]},"#), "[] None");
}

#[test]
fn rates_come_from_the_runtime() {
    let of = |fields: &str| match ask(ADD, &with(r#""type""#, &format!(r#"{fields}"type""#))) {
        Ok(Request::Add(Attachment { bandwidth: Bandwidth { ingress, egress }, .. })) => (ingress, egress),
        other => panic!("{other:?}"),
    };
    assert_eq!(of(""), (None, None));
    let rates =
        r#""runtimeConfig":{"bandwidth":{"ingressRate":5000,"ingressBurst":4294967295,"egressRate":0}},"#;
    assert_eq!(of(rates), (Some(5000), None));
}

#[test]
fn bad_requests_get_the_specifications_codes() {
    check("COMMAND=ADD CONTAINERID=c1 IFNAME=eth0", GOOD, expect!["4: CNI_NETNS is not set ()"]);
    check("COMMAND=ADD CONTAINERID=c1 NETNS=/x", GOOD, expect!["4: CNI_IFNAME is not set ()"]);
    check(
        "COMMAND=ADD CONTAINERID=c1 IFNAME=a/b NETNS=/x",
        GOOD,
        expect![[r#"4: CNI_IFNAME "a/b" is malformed ()"#]],
    );
    check(
        "COMMAND=ADD CONTAINERID=c1 IFNAME=sixteen_letters_ NETNS=/x",
        GOOD,
        expect![[r#"4: CNI_IFNAME "sixteen_letters_" is malformed ()"#]],
    );
    check(
        "COMMAND=ADD CONTAINERID=../x IFNAME=eth0 NETNS=/x",
        GOOD,
        expect![[r#"4: CNI_CONTAINERID "../x" is malformed ()"#]],
    );
    check(&format!("{ADD} ARGS=FOO=1"), GOOD, expect!["4: CNI_ARGS: unknown FOO ()"]);
    check("COMMAND=DEL CONTAINERID=c1", GOOD, expect!["4: CNI_IFNAME is not set ()"]);
    check("COMMAND=FLY", GOOD, expect!["4: CNI_COMMAND FLY is unknown ()"]);
    check("", GOOD, expect!["4: CNI_COMMAND is not set ()"]);
    check(
        "COMMAND=STATUS",
        "{",
        expect!["6: the network configuration is no JSON (EOF while parsing an object at line 1 column 1)"],
    );
    check("COMMAND=STATUS", "[]", expect!["6: the network configuration is no JSON object ()"]);
    check(
        "COMMAND=STATUS",
        r#"{"cniVersion":"2.0.0"}"#,
        expect!["1: cniVersion 2.0.0 is not supported (supported: 0.3.1, 0.4.0, 1.0.0, 1.1.0)"],
    );
    check(
        "COMMAND=STATUS",
        r#"{"cniVersion":7}"#,
        expect!["1: cniVersion 0.1.0 is not supported (supported: 0.3.1, 0.4.0, 1.0.0, 1.1.0)"],
    );
    check(
        "COMMAND=STATUS",
        r#"{"cniVersion":"1.0.0","name":"n"}"#,
        expect!["7: the network configuration is not valid (podCIDR or podCIDRs is missing)"],
    );
    check(
        "COMMAND=STATUS",
        &with("1.1.0", "1.0.0"),
        expect!["1: cniVersion 1.0.0 has no STATUS (it came with 1.1.0)"],
    );
    check(
        "COMMAND=GC",
        &with("1.1.0", "1.0.0"),
        expect!["1: cniVersion 1.0.0 has no GC (it came with 1.1.0)"],
    );
    check(
        "COMMAND=CHECK",
        &with("1.1.0", "0.3.1"),
        expect!["1: cniVersion 0.3.1 has no CHECK (it came with 0.4.0)"],
    );
    check(
        "COMMAND=STATUS",
        &with("10.244.1.0/24", "10.0.0.0/33"),
        expect!["7: the network configuration is not valid (invalid CIDR address: 10.0.0.0/33)"],
    );
    check("COMMAND=STATUS", &with("pods", "a/b"), expect![[r#"7: name "a/b" is malformed ()"#]]);
    check(
        "COMMAND=GC",
        r#"{"cniVersion":"1.1.0","name":"n","podCIDR":"10.0.0.0/24"}"#,
        expect!["7: cni.dev/valid-attachments is missing ()"],
    );
    let check_of = "COMMAND=CHECK CONTAINERID=c1 NETNS=/run/netns/x IFNAME";
    check(&format!("{check_of}=net1"), GOOD, expect!["7: prevResult has no interface net1 in a sandbox ()"]);
    check(&format!("{check_of}=eth0"), &with("prevResult", "x"), expect!["7: prevResult is missing ()"]);
    check(
        &format!("{check_of}=eth0"),
        &with(r#"{"address":"10.244.1.2/32","interface":0}"#, ""),
        expect!["7: prevResult.ips is missing ()"],
    );
}

/// Any JSON.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        "(10\\.244\\.1\\.[0-9]{1,3}(/[0-9]{1,2})?|eth0|1\\.1\\.0|[0-9a-f:]{17})".prop_map(Value::from),
    ];
    let key = prop_oneof!["[a-z]{0,4}", "(address|interface|interfaces|ips|routes|name|sandbox|mac|dst|cni)"];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

const FIELDS: [&str; 13] = [
    "cniVersion",
    "name",
    "podCIDR",
    "clusterCIDR",
    "mtu",
    "dns",
    "ipam",
    "ipMasq",
    "runtimeConfig",
    "args",
    "prevResult",
    "cni.dev/valid-attachments",
    "isDefaultGateway",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn whatever_a_field_holds_there_is_an_answer(
        field in proptest::sample::select(&FIELDS[..]), value in json(),
        command in proptest::sample::select(&["ADD", "DEL", "CHECK", "GC", "STATUS"][..]),
    ) {
        let mut config: Value = serde_json::from_str(GOOD).unwrap();
        config[field] = value;
        let environment = ADD.replace("ADD", command);
        match ask(&environment, &config.to_string()) {
            Err(fault) => prop_assert!([1, 2, 4, 6, 7].contains(&fault.code), "{fault:?}"),
            Ok(Request::Add(attachment)) => {
                let addresses = vec![[10, 244, 1, 2].into()];
                let mac = crate::names::Mac::for_addresses(&addresses);
                let attached = crate::network::Attached {
                    addresses, interface: "eth0".into(), mac, mtu: 1500, only: Vec::new(),
                };
                let parsed = super::super::config(config.to_string().as_bytes()).unwrap();
                let previous = parsed.prev_result.as_ref();
                if let Ok(result) =
                    super::super::add_result(parsed.version(), &attachment, &attached, parsed.dns.as_ref(), previous)
                {
                    prop_assert_eq!(&result["cniVersion"], &Value::from(parsed.cni_version));
                }
            }
            Ok(_) => {}
        }
    }

    #[test]
    fn bytes_that_are_no_configuration_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(config(&bytes).is_err());
    }
}
