# A rule set of kube-proxy's shape for the services `web` and `dns` of the town, beside rules of others. $1: the iptables
# variant, or nft.
set -e
case $1 in
nft)
nft -f - <<'END'
table ip mine { chain forward { type filter hook forward priority 10; policy accept; counter; }; }
table ip kube-proxy {
  comment "rules for kube-proxy"
  map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; elements = {
    10.96.0.10 . tcp . 80 : goto service-WEB, 10.96.0.53 . udp . 53 : goto service-DNS } }
  map service-nodeports { type inet_proto . inet_service : verdict; elements = {
    tcp . 30080 : goto external-WEB, udp . 30053 : goto external-DNS } }
  chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
  chain masquerading { meta mark and 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random; }
  chain endpoint-POD { ip saddr 10.42.1.10 jump mark-for-masquerade
    meta l4proto tcp dnat to 10.42.1.10:8080; }
  chain endpoint-OTHER { ip saddr 10.42.2.10 jump mark-for-masquerade
    meta l4proto tcp dnat to 10.42.2.10:8080; }
  chain endpoint-DNS { meta l4proto udp dnat to 10.42.1.10:5353; }
  chain service-WEB { ip daddr 10.96.0.10 tcp dport 80 ip saddr != 10.42.0.0/16 jump mark-for-masquerade
    numgen random mod 2 vmap { 0 : goto endpoint-POD, 1 : goto endpoint-OTHER }; }
  chain service-DNS { goto endpoint-DNS; }
  chain external-WEB { jump mark-for-masquerade
    goto service-WEB; }
  chain external-DNS { jump mark-for-masquerade
    goto service-DNS; }
  chain services { ip daddr . meta l4proto . th dport vmap @service-ips
    fib daddr type local meta l4proto . th dport vmap @service-nodeports; }
  chain filter-forward { type filter hook forward priority -110; policy accept; ct state new counter; }
  chain nat-prerouting { type nat hook prerouting priority -100; policy accept; jump services; }
  chain nat-output { type nat hook output priority -100; policy accept; jump services; }
  chain nat-postrouting { type nat hook postrouting priority 100; policy accept; jump masquerading; }
}
table ip6 kube-proxy {
  map service-ips { type ipv6_addr . inet_proto . inet_service : verdict; elements = {
    2001:db8:43::10 . tcp . 80 : goto service-WEB } }
  map service-nodeports { type inet_proto . inet_service : verdict; elements = { tcp . 30080 : goto external-WEB } }
  chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
  chain masquerading { meta mark and 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random; }
  chain endpoint-POD { ip6 saddr 2001:db8:42:1::10 jump mark-for-masquerade
    meta l4proto tcp dnat to [2001:db8:42:1::10]:8080; }
  chain endpoint-OTHER { meta l4proto tcp dnat to [2001:db8:42:2::10]:8080; }
  chain service-WEB { numgen random mod 2 vmap { 0 : goto endpoint-POD, 1 : goto endpoint-OTHER }; }
  chain external-WEB { jump mark-for-masquerade
    goto service-WEB; }
  chain services { ip6 daddr . meta l4proto . th dport vmap @service-ips
    fib daddr type local meta l4proto . th dport vmap @service-nodeports; }
  chain nat-prerouting { type nat hook prerouting priority -100; policy accept; jump services; }
  chain nat-output { type nat hook output priority -100; policy accept; jump services; }
  chain nat-postrouting { type nat hook postrouting priority 100; policy accept; jump masquerading; }
}
END
;;
*)
$1-restore --noflush <<'END'
*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:MINE - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A INPUT -m comment --comment "mine: -j KUBE-SERVICES \"quoted\"" -j MINE
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL -m comment --comment "kubernetes firewall for dropping marked packets" -m mark --mark 0x8000/0x8000 -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXT-LOLE4ISW44XBNF3G - [0:0]
:KUBE-EXT-TCOU7JCQXEZGVUNU - [0:0]
:KUBE-SEP-PODPODPODPODPOD2 - [0:0]
:KUBE-SEP-OTHEROTHEROTHER2 - [0:0]
:KUBE-SEP-DNSDNSDNSDNSDNS2 - [0:0]
:KUBE-SVC-LOLE4ISW44XBNF3G - [0:0]
:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/web:http" -m tcp --dport 30080 -j KUBE-EXT-LOLE4ISW44XBNF3G
-A KUBE-NODEPORTS -p udp -m comment --comment "default/dns:dns" -m udp --dport 30053 -j KUBE-EXT-TCOU7JCQXEZGVUNU
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-EXT-LOLE4ISW44XBNF3G -m comment --comment "masquerade traffic for default/web:http external destinations" -j KUBE-MARK-MASQ
-A KUBE-EXT-LOLE4ISW44XBNF3G -j KUBE-SVC-LOLE4ISW44XBNF3G
-A KUBE-EXT-TCOU7JCQXEZGVUNU -j KUBE-MARK-MASQ
-A KUBE-EXT-TCOU7JCQXEZGVUNU -j KUBE-SVC-TCOU7JCQXEZGVUNU
-A KUBE-SEP-PODPODPODPODPOD2 -s 10.42.1.10/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ
-A KUBE-SEP-PODPODPODPODPOD2 -p tcp -m comment --comment "default/web:http" -m tcp -j DNAT --to-destination 10.42.1.10:8080
-A KUBE-SEP-OTHEROTHEROTHER2 -s 10.42.2.10/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ
-A KUBE-SEP-OTHEROTHEROTHER2 -p tcp -m comment --comment "default/web:http" -m tcp -j DNAT --to-destination 10.42.2.10:8080
-A KUBE-SEP-DNSDNSDNSDNSDNS2 -p udp -m comment --comment "default/dns:dns" -m udp -j DNAT --to-destination 10.42.1.10:5353
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-LOLE4ISW44XBNF3G
-A KUBE-SERVICES -d 10.96.0.53/32 -p udp -m comment --comment "default/dns:dns cluster IP" -m udp --dport 53 -j KUBE-SVC-TCOU7JCQXEZGVUNU
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-LOLE4ISW44XBNF3G ! -s 10.42.0.0/16 -d 10.96.0.10/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-LOLE4ISW44XBNF3G -m comment --comment "default/web:http -> 10.42.1.10:8080" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-PODPODPODPODPOD2
-A KUBE-SVC-LOLE4ISW44XBNF3G -m comment --comment "default/web:http -> 10.42.2.10:8080" -j KUBE-SEP-OTHEROTHEROTHER2
-A KUBE-SVC-TCOU7JCQXEZGVUNU -m comment --comment "default/dns:dns -> 10.42.1.10:5353" -j KUBE-SEP-DNSDNSDNSDNSDNS2
COMMIT
END
ip6${1#ip}-restore --noflush <<'END'
*nat
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXT-LOLE4ISW44XBNF3G - [0:0]
:KUBE-SEP-PODPODPODPODPOD6 - [0:0]
:KUBE-SEP-OTHEROTHEROTHER6 - [0:0]
:KUBE-SVC-LOLE4ISW44XBNF3G - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/web:http" -m tcp --dport 30080 -j KUBE-EXT-LOLE4ISW44XBNF3G
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-EXT-LOLE4ISW44XBNF3G -j KUBE-MARK-MASQ
-A KUBE-EXT-LOLE4ISW44XBNF3G -j KUBE-SVC-LOLE4ISW44XBNF3G
-A KUBE-SEP-PODPODPODPODPOD6 -s 2001:db8:42:1::10/128 -j KUBE-MARK-MASQ
-A KUBE-SEP-PODPODPODPODPOD6 -p tcp -m tcp -j DNAT --to-destination [2001:db8:42:1::10]:8080
-A KUBE-SEP-OTHEROTHEROTHER6 -p tcp -m tcp -j DNAT --to-destination [2001:db8:42:2::10]:8080
-A KUBE-SERVICES -d 2001:db8:43::10/128 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-LOLE4ISW44XBNF3G
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-LOLE4ISW44XBNF3G -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-PODPODPODPODPOD6
-A KUBE-SVC-LOLE4ISW44XBNF3G -j KUBE-SEP-OTHEROTHEROTHER6
COMMIT
END
;;
esac
