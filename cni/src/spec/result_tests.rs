use expect_test::expect;
use serde_json::json;

use super::*;

fn attached() -> (Attachment, Attached) {
    let attachment = Attachment::of_pod("net/c1/eth0", "ns", "web", "/run/netns/x".as_ref());
    let addresses = vec![[10, 244, 1, 2].into(), "fd00::2".parse().unwrap()];
    let mac = Mac::for_addresses(&addresses);
    (attachment, Attached { addresses, interface: "eth0".into(), mac, mtu: 1450, only: Vec::new() })
}

fn text(version: &str) -> String {
    let (attachment, attached) = attached();
    let result = add_result(version.parse().unwrap(), &attachment, &attached, None, None).unwrap();
    serde_json::to_string_pretty(&result).unwrap()
}

#[test]
fn results_have_the_form_of_the_runtimes_version() {
    expect![[r#"
        {
          "cniVersion": "1.1.0",
          "dns": {},
          "interfaces": [
            {
              "mac": "ee:ee:ee:ee:ee:ee",
              "mtu": 1450,
              "name": "orld24d4ce558"
            },
            {
              "mac": "0a:58:0a:f4:01:02",
              "mtu": 1450,
              "name": "eth0",
              "sandbox": "/run/netns/x"
            }
          ],
          "ips": [
            {
              "address": "10.244.1.2/32",
              "gateway": "169.254.1.1",
              "interface": 1
            },
            {
              "address": "fd00::2/128",
              "gateway": "fe80::1",
              "interface": 1
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0",
              "gw": "169.254.1.1"
            },
            {
              "dst": "::/0",
              "gw": "fe80::1"
            }
          ]
        }"#]]
    .assert_eq(&text("1.1.0"));
    let (old, new) = (text("0.4.0"), text("1.0.0"));
    assert!(old.contains(r#""version": "4""#) && !new.contains("version\": \"4"));
    assert!(!old.contains("mtu") && !new.contains("mtu"));
}

#[test]
fn what_earlier_plugins_of_a_chain_made_stays_in_the_result() {
    let (attachment, attached) = attached();
    let previous = json!({
        "cniVersion": "1.1.0", "new": {"field": 1}, "dns": {"nameservers": ["10.0.0.10"]},
        "interfaces": [{"name": "net1", "sandbox": "/run/netns/x", "pciID": "1"}],
        "ips": [{"address": "192.0.2.7/24", "interface": 0}],
    });
    let result = add_result(Version::GC, &attachment, &attached, None, Some(&previous)).unwrap();
    assert_eq!(result["new"], previous["new"]);
    assert_eq!(result["dns"], previous["dns"]);
    assert_eq!(result["interfaces"][0], previous["interfaces"][0]);
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    let own = [attached.addresses.as_slice(), &[[192, 0, 2, 7].into()]].concat();
    assert_eq!(pod_result(&result, "eth0").unwrap().addresses, own);

    let dns = json!({"domain": "x"});
    let result = add_result(Version::GC, &attachment, &attached, dns.as_object(), Some(&previous)).unwrap();
    assert_eq!(result["dns"], dns);
    for wrong in [json!([]), json!({"ips": 1}), json!({"interfaces": {}}), json!("x")] {
        let refused = add_result(Version::GC, &attachment, &attached, None, Some(&wrong)).unwrap_err();
        assert_eq!(refused.code, 7, "{wrong}");
    }
}

#[test]
fn an_interface_is_found_by_its_name_in_the_sandbox() {
    let result = json!({
        "interfaces": [{"name": "eth0"}, {"name": "eth0", "sandbox": "/x", "mac": "0a:58:0a:f4:00:02"}],
        "ips": [{"address": "10.0.0.1/24", "interface": 0}, {"address": "10.0.0.2/24", "interface": 1},
            {"address": "fd00::2/64", "interface": 1}, {"address": "10.0.0.3/24", "interface": -1}],
        "routes": [{"dst": "0.0.0.0/0"}],
    });
    let found = previous_in(&result, "eth0").unwrap();
    assert_eq!(found.addresses, ["10.0.0.2".parse::<IpAddr>().unwrap(), "fd00::2".parse().unwrap()]);
    assert_eq!((found.routes.as_slice(), found.mac.is_some()), (&["0.0.0.0/0".to_owned()][..], true));
    assert_eq!(
        previous_in(&result, "net1").unwrap_err().msg,
        "prevResult has no interface net1 in a sandbox"
    );
    assert_eq!(previous_in(&json!({"ips": 7}), "eth0").unwrap_err().code, 7);
}

#[test]
fn the_pods_addresses_are_those_of_its_interface_then_the_others() {
    let of = |result: Value| {
        let addresses = pod_result(&result, "eth0").unwrap().addresses;
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let interfaces =
        json!([{"name": "br0"}, {"name": "net1", "sandbox": "/x"}, {"name": "eth0", "sandbox": "/x"}]);
    let ips = json!([{"address": "10.0.0.1/8", "interface": 0}, {"address": "10.0.0.2/8", "interface": 1},
        {"address": "10.0.0.3/8", "interface": 2}, {"address": "fd00::3/64", "interface": 2},
        {"address": "10.0.0.4/8"}, {"address": "nonsense", "interface": 2}]);
    assert_eq!(of(json!({"interfaces": interfaces, "ips": ips})), "10.0.0.3 fd00::3 10.0.0.4 10.0.0.2");
    assert_eq!(of(json!({"ips": [{"address": "10.0.0.9/8"}]})), "10.0.0.9");
    assert_eq!(of(json!({"dns": {}})), "");
}
