use expect_test::{Expect, expect};

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 0, 2));
const ADDRESS6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));

fn want() -> PodLink {
    PodLink::new("u1", vec![ADDRESS], 1450)
}

/// A pod that is wholly attached.
fn whole() -> LinkState {
    let host = HostSide {
        index: 7,
        up: true,
        uid: Some("u1".into()),
        mtu: 1450,
        doomed: false,
        routes: vec![ADDRESS],
        neighbours: vec![ADDRESS],
    };
    let pod = PodSide {
        peer: Some(7),
        up: true,
        mtu: 1450,
        mac: Some(want().mac().0),
        addresses: vec![ADDRESS],
        routes: want().routes(),
        neighbours: vec![gateway(Family::V4)],
    };
    LinkState { host: Some(host), pod: Some(pod), loopback_up: true }
}

fn check(change: impl FnOnce(&mut LinkState), expected: Expect) {
    let mut state = whole();
    change(&mut state);
    let lines = match plan(&want(), &state) {
        Ok(ops) => ops.iter().map(|op| format!("{op}\n")).collect(),
        Err(error) => format!("refused: {error}\n"),
    };
    expected.assert_eq(&lines);
}

fn host(state: &mut LinkState) -> &mut HostSide {
    state.host.as_mut().unwrap()
}

fn pod(state: &mut LinkState) -> &mut PodSide {
    state.pod.as_mut().unwrap()
}

#[test]
fn nothing_to_do_when_all_is_there() {
    check(|_| {}, expect![""]);
}

#[test]
fn a_fresh_pod_gets_everything_route_last() {
    check(
        |s| *s = LinkState::default(),
        expect![[r#"
            link add orl08c47b07b5 address ee:ee:ee:ee:ee:ee mtu 1450 type veth peer name eth0 address 0a:58:0a:f4:00:02 mtu 1450 netns POD
            sysctl orl08c47b07b5 rp_filter=1 disable_ipv6=1
            link set orl08c47b07b5 up arp off alias pod:u1
            POD link set lo up
            POD addr add 10.244.0.2/32 dev eth0
            POD link set eth0 up
            POD neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
            POD route add default via 169.254.1.1 dev eth0 proto 111 onlink
            neigh add 10.244.0.2 lladdr 0a:58:0a:f4:00:02 dev orl08c47b07b5 nud permanent
            link show orl08c47b07b5 up
            route add 10.244.0.2/32 dev orl08c47b07b5 proto 111
        "#]],
    );
}

#[test]
fn both_families_are_set_up_side_by_side() {
    let steps = |addresses: Vec<IpAddr>, state: &LinkState| {
        let ops = plan(&PodLink::new("u1", addresses, 1450), state).unwrap();
        ops.iter().map(|op| format!("{op}\n")).collect::<String>()
    };
    expect![[r#"
        link add orl08c47b07b5 address ee:ee:ee:ee:ee:ee mtu 1450 type veth peer name eth0 address 0a:58:0a:f4:00:02 mtu 1450 netns POD
        sysctl orl08c47b07b5 rp_filter=1 disable_ipv6=0 addr_gen_mode=1 accept_ra=0
        link set orl08c47b07b5 up arp off alias pod:u1
        POD link set lo up
        POD addr add 10.244.0.2/32 dev eth0
        POD addr add fd00::2/128 dev eth0 nodad
        POD link set eth0 up
        POD neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
        POD neigh add fe80::1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
        POD route add default via 169.254.1.1 dev eth0 proto 111 onlink
        POD route add default via fe80::1 dev eth0 proto 111 onlink
        neigh add 10.244.0.2 lladdr 0a:58:0a:f4:00:02 dev orl08c47b07b5 nud permanent
        neigh add fd00::2 lladdr 0a:58:0a:f4:00:02 dev orl08c47b07b5 nud permanent
        link show orl08c47b07b5 up
        POD route get fd00::2
        route add 10.244.0.2/32 dev orl08c47b07b5 proto 111
        route add fd00::2/128 dev orl08c47b07b5 proto 111
    "#]].assert_eq(&steps(vec![ADDRESS, ADDRESS6], &LinkState::default()));
    expect![[r#"
        link add orl08c47b07b5 address ee:ee:ee:ee:ee:ee mtu 1450 type veth peer name eth0 address 0a:58:df:8c:80:95 mtu 1450 netns POD
        sysctl orl08c47b07b5 rp_filter=1 disable_ipv6=0 addr_gen_mode=1 accept_ra=0
        link set orl08c47b07b5 up arp off alias pod:u1
        POD link set lo up
        POD addr add fd00::2/128 dev eth0 nodad
        POD link set eth0 up
        POD neigh add fe80::1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
        POD route add default via fe80::1 dev eth0 proto 111 onlink
        neigh add fd00::2 lladdr 0a:58:df:8c:80:95 dev orl08c47b07b5 nud permanent
        link show orl08c47b07b5 up
        POD route get fd00::2
        route add fd00::2/128 dev orl08c47b07b5 proto 111
    "#]].assert_eq(&steps(vec![ADDRESS6], &LinkState::default()));
    let mut state = whole();
    expect![[r#"
        POD addr add fd00::2/128 dev eth0 nodad
        POD neigh add fe80::1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
        POD route add default via fe80::1 dev eth0 proto 111 onlink
        neigh add fd00::2 lladdr 0a:58:0a:f4:00:02 dev orl08c47b07b5 nud permanent
        POD route get fd00::2
        route add fd00::2/128 dev orl08c47b07b5 proto 111
    "#]]
    .assert_eq(&steps(vec![ADDRESS, ADDRESS6], &state));
    host(&mut state).neighbours.push(ADDRESS6);
    host(&mut state).routes.push(ADDRESS6);
    pod(&mut state).addresses.push(ADDRESS6);
    pod(&mut state).neighbours.push(gateway(Family::V6));
    pod(&mut state).routes.push((IpNet::everything(Family::V6), gateway(Family::V6)));
    assert_eq!(steps(vec![ADDRESS, ADDRESS6], &state), "");
}

#[test]
fn limits_are_set_before_the_pod_can_send() {
    let bandwidth = Bandwidth { ingress: Some(40_000_000), egress: Some(10_000_000) };
    let want = PodLink { bandwidth, ..want() };
    let ops = plan(&want, &LinkState::default()).unwrap();
    let words: Vec<_> = ops.iter().map(ToString::to_string).collect();
    let at = |part: &str| words.iter().position(|words| words.contains(part)).unwrap();
    assert!(at("tbf rate 10000000bit") < at("POD link set eth0 up"));
    expect![[r#"
        qdisc replace dev orl08c47b07b5 root tbf rate 40000000bit burst 100000 limit 300000
        qdisc replace dev ors08c47b07b5 root tbf rate 10000000bit burst 25000 limit 75000; filter add dev orl08c47b07b5 ingress u32 match u8 0 0 action mirred egress redirect dev ors08c47b07b5
    "#]].assert_eq(
        &words.iter().filter(|words| words.contains("tbf")).map(|w| format!("{w}\n")).collect::<String>(),
    );
    let undone: Vec<_> = undo(&ops).iter().map(ToString::to_string).collect();
    assert!(
        undone.iter().any(|words| words.contains("mirred")),
        "the shaper is a link of its own: {undone:?}"
    );
}

#[test]
fn each_missing_part_is_added_alone() {
    check(
        |s| host(s).routes.clear(),
        expect![[r#"
            route add 10.244.0.2/32 dev orl08c47b07b5 proto 111
        "#]],
    );
    check(
        |s| host(s).neighbours.clear(),
        expect![[r#"
        neigh add 10.244.0.2 lladdr 0a:58:0a:f4:00:02 dev orl08c47b07b5 nud permanent
    "#]],
    );
    check(
        |s| host(s).up = false,
        expect![[r#"
            sysctl orl08c47b07b5 rp_filter=1 disable_ipv6=1
            link set orl08c47b07b5 up arp off alias pod:u1
            link show orl08c47b07b5 up
        "#]],
    );
    check(
        |s| host(s).uid = None,
        expect![[r#"
            sysctl orl08c47b07b5 rp_filter=1 disable_ipv6=1
            link set orl08c47b07b5 up arp off alias pod:u1
            link show orl08c47b07b5 up
        "#]],
    );
    check(
        |s| pod(s).addresses.clear(),
        expect![[r#"
        POD addr add 10.244.0.2/32 dev eth0
    "#]],
    );
    check(
        |s| pod(s).up = false,
        expect![[r#"
            POD link set eth0 up
            link show orl08c47b07b5 up
        "#]],
    );
    check(
        |s| pod(s).routes.clear(),
        expect![[r#"
            POD route add default via 169.254.1.1 dev eth0 proto 111 onlink
        "#]],
    );
    check(
        |s| pod(s).neighbours.clear(),
        expect![[r#"
        POD neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
    "#]],
    );
    check(
        |s| s.loopback_up = false,
        expect![[r#"
        POD link set lo up
    "#]],
    );
}

#[test]
fn a_pair_whose_pod_side_is_elsewhere_is_made_anew() {
    check(
        |s| s.pod = None,
        expect![[r#"
            link del orl08c47b07b5
            link add orl08c47b07b5 address ee:ee:ee:ee:ee:ee mtu 1450 type veth peer name eth0 address 0a:58:0a:f4:00:02 mtu 1450 netns POD
            sysctl orl08c47b07b5 rp_filter=1 disable_ipv6=1
            link set orl08c47b07b5 up arp off alias pod:u1
            POD addr add 10.244.0.2/32 dev eth0
            POD link set eth0 up
            POD neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
            POD route add default via 169.254.1.1 dev eth0 proto 111 onlink
            neigh add 10.244.0.2 lladdr 0a:58:0a:f4:00:02 dev orl08c47b07b5 nud permanent
            link show orl08c47b07b5 up
            route add 10.244.0.2/32 dev orl08c47b07b5 proto 111
        "#]],
    );
}

#[test]
fn a_pair_with_another_address_is_made_anew_and_one_with_another_mtu_changed() {
    check(
        |s| pod(s).addresses = vec![[10, 244, 0, 9].into()],
        expect![[r#"
            link del orl08c47b07b5
            link add orl08c47b07b5 address ee:ee:ee:ee:ee:ee mtu 1450 type veth peer name eth0 address 0a:58:0a:f4:00:02 mtu 1450 netns POD
            sysctl orl08c47b07b5 rp_filter=1 disable_ipv6=1
            link set orl08c47b07b5 up arp off alias pod:u1
            POD addr add 10.244.0.2/32 dev eth0
            POD link set eth0 up
            POD neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
            POD route add default via 169.254.1.1 dev eth0 proto 111 onlink
            neigh add 10.244.0.2 lladdr 0a:58:0a:f4:00:02 dev orl08c47b07b5 nud permanent
            link show orl08c47b07b5 up
            route add 10.244.0.2/32 dev orl08c47b07b5 proto 111
        "#]],
    );
    check(
        |s| pod(s).mtu = 1500,
        expect![[r#"
            POD link set eth0 mtu 1450
        "#]],
    );
}

#[test]
fn a_pair_whose_removal_was_begun_is_made_anew() {
    check(
        |s| host(s).doomed = true,
        expect![[r#"
            link del orl08c47b07b5
            link add orl08c47b07b5 address ee:ee:ee:ee:ee:ee mtu 1450 type veth peer name eth0 address 0a:58:0a:f4:00:02 mtu 1450 netns POD
            sysctl orl08c47b07b5 rp_filter=1 disable_ipv6=1
            link set orl08c47b07b5 up arp off alias pod:u1
            POD addr add 10.244.0.2/32 dev eth0
            POD link set eth0 up
            POD neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
            POD route add default via 169.254.1.1 dev eth0 proto 111 onlink
            neigh add 10.244.0.2 lladdr 0a:58:0a:f4:00:02 dev orl08c47b07b5 nud permanent
            link show orl08c47b07b5 up
            route add 10.244.0.2/32 dev orl08c47b07b5 proto 111
        "#]],
    );
}

#[test]
fn what_belongs_to_others_is_refused() {
    check(
        |s| pod(s).peer = Some(99),
        expect![[r#"
        refused: the pod already has an interface eth0 that is not from here
    "#]],
    );
    check(
        |s| s.host = None,
        expect![[r#"
        refused: the pod already has an interface eth0 that is not from here
    "#]],
    );
    check(
        |s| host(s).uid = Some("u2".into()),
        expect![[r#"
        refused: interface orl08c47b07b5 belongs to pod u2
    "#]],
    );
}

#[test]
fn undo_of_any_prefix_of_a_fresh_plan_is_the_pair_and_lo() {
    let ops = plan(&want(), &LinkState::default()).unwrap();
    for done in 0..=ops.len() {
        let undone: Vec<_> = undo(&ops[..done]).iter().map(ToString::to_string).collect();
        let expected = match done {
            0 => 0,
            1..=3 => 1,
            _ => 2,
        };
        assert_eq!(undone.len(), expected, "{undone:?}");
        assert_eq!(undone.last().is_some_and(|op| op.starts_with("link add")), done > 0);
    }
}

#[test]
fn undo_of_a_repair_reverts_its_steps_in_reverse() {
    let mut state = whole();
    pod(&mut state).routes.clear();
    host(&mut state).routes.clear();
    let ops = plan(&want(), &state).unwrap();
    let reversed: Vec<_> = ops.iter().rev().cloned().collect();
    assert_eq!(undo(&ops), reversed);
}

#[test]
fn a_second_interface_has_its_own_name_address_and_way() {
    let want = PodLink {
        interface: "net1".into(),
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        only: vec!["10.244.0.0/16".parse().unwrap(), "fd00:10::/56".parse().unwrap()],
        ..want()
    };
    let ops = plan(&want, &LinkState::default()).unwrap();
    let words: Vec<_> = ops.iter().map(|op| want.words(op)).filter(|words| words.contains("net1")).collect();
    expect![[r#"
        link add orl08c47b07b5 address ee:ee:ee:ee:ee:ee mtu 1450 type veth peer name net1 address 02:00:00:00:00:01 mtu 1450 netns POD
        POD addr add 10.244.0.2/32 dev net1
        POD link set net1 up
        POD neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev net1 nud permanent
        POD route add 10.244.0.0/16 via 169.254.1.1 dev net1 proto 111 onlink"#]]
    .assert_eq(&words.join("\n"));
}
