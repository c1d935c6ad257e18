# A rule set of the shape of kube-proxy's IPVS mode for the services `web`, `dns` and `sig` of the town, beside what is others'.
set -e
modprobe -a ip_vs ip_vs_rr sctp
# From when a name space of IPVS is there.
ipvsadm -L -n > /dev/null
sysctl -qw net.ipv4.vs.conntrack=1 net.ipv4.vs.conn_reuse_mode=0 net.ipv4.vs.expire_nodest_conn=1 \
  net.ipv4.vs.expire_quiescent_template=1
ip link add kube-ipvs0 type dummy
for ip in 10.96.0.10/32 10.96.0.53/32 10.96.0.20/32 2001:db8:43::10/128; do ip address add $ip dev kube-ipvs0; done

serve() { # flag, virtual, real...
  local flag=$1 at=$2
  shift 2
  ipvsadm -A $flag $at -s rr
  for real in "$@"; do ipvsadm -a $flag $at -r $real -m -w 1; done
}
web='10.42.1.10:8080 10.42.2.10:8080'
web6='[2001:db8:42:1::10]:8080 [2001:db8:42:2::10]:8080'
sig='10.42.1.10:2906 10.42.2.10:2906'
serve -t 10.96.0.10:80 $web
serve -u 10.96.0.53:53 10.42.1.10:5353
serve --sctp-service 10.96.0.20:2905 $sig
for ip in 192.0.2.10 10.42.1.1; do
  serve -t $ip:30080 $web
  serve -u $ip:30053 10.42.1.10:5353
  serve --sctp-service $ip:30132 $sig
done
serve -t '[2001:db8:43::10]:80' $web6
serve -t '[2001:db8:1::10]:30080' $web6
serve -t 192.0.2.10:30085 10.42.1.10:8085
serve -t 192.0.2.99:443 10.42.1.10:8443

ipset restore <<'END'
create KUBE-CLUSTER-IP hash:ip,port family inet
create KUBE-LOOP-BACK hash:ip,port,ip family inet
create KUBE-NODE-PORT-TCP bitmap:port range 0-65535
create KUBE-NODE-PORT-UDP bitmap:port range 0-65535
create KUBE-NODE-PORT-SCTP-HASH hash:ip,port family inet
create KUBE-HEALTH-CHECK-NODE-PORT bitmap:port range 0-65535
create KUBE-IPVS-IPS hash:ip family inet
create KUBE-LOAD-BALANCER hash:ip,port family inet
create KUBE-LOAD-BALANCER-FW hash:ip,port family inet
create KUBE-6-CLUSTER-IP hash:ip,port family inet6
create KUBE-6-LOOP-BACK hash:ip,port,ip family inet6
create KUBE-6-NODE-PORT-TCP bitmap:port range 0-65535
create KUBE-MINE hash:ip family inet
add KUBE-CLUSTER-IP 10.96.0.10,tcp:80
add KUBE-CLUSTER-IP 10.96.0.53,udp:53
add KUBE-CLUSTER-IP 10.96.0.20,sctp:2905
add KUBE-LOOP-BACK 10.42.1.10,tcp:8080,10.42.1.10
add KUBE-LOOP-BACK 10.42.1.10,sctp:2906,10.42.1.10
add KUBE-NODE-PORT-TCP 30080
add KUBE-NODE-PORT-TCP 30085
add KUBE-NODE-PORT-UDP 30053
add KUBE-NODE-PORT-SCTP-HASH 192.0.2.10,sctp:30132
add KUBE-NODE-PORT-SCTP-HASH 10.42.1.1,sctp:30132
add KUBE-IPVS-IPS 10.96.0.10
add KUBE-IPVS-IPS 10.96.0.53
add KUBE-IPVS-IPS 10.96.0.20
add KUBE-6-CLUSTER-IP 2001:db8:43::10,tcp:80
add KUBE-6-LOOP-BACK 2001:db8:42:1::10,tcp:8080,2001:db8:42:1::10
add KUBE-6-NODE-PORT-TCP 30080
add KUBE-MINE 10.42.1.10
END

iptables-restore --noflush <<'END'
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-IPVS-OUT-FILTER - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
:MINE - [0:0]
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A INPUT -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check rules" -j KUBE-NODE-PORT
-A INPUT -j KUBE-FIREWALL
-A INPUT -m set --match-set KUBE-MINE src -j MINE
-A FORWARD -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A OUTPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-OUT-FILTER
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-IPVS-FILTER -m set --match-set KUBE-LOAD-BALANCER dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m set --match-set KUBE-CLUSTER-IP dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m set --match-set KUBE-HEALTH-CHECK-NODE-PORT dst -j RETURN
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set KUBE-IPVS-IPS dst -j REJECT --reject-with icmp-port-unreachable
-A KUBE-NODE-PORT -m comment --comment "Kubernetes health check node port" -m set --match-set KUBE-HEALTH-CHECK-NODE-PORT dst -j ACCEPT
-A KUBE-PROXY-FIREWALL -m set --match-set KUBE-LOAD-BALANCER-FW dst,dst -j KUBE-SOURCE-RANGES-FIREWALL
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
COMMIT
*nat
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODE-PORT -p tcp -m comment --comment "Kubernetes nodeport TCP port for masquerade purpose" -m set --match-set KUBE-NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A KUBE-NODE-PORT -p udp -m comment --comment "Kubernetes nodeport UDP port for masquerade purpose" -m set --match-set KUBE-NODE-PORT-UDP dst -j KUBE-MARK-MASQ
-A KUBE-NODE-PORT -p sctp -m comment --comment "Kubernetes nodeport SCTP port for masquerade purpose" -m set --match-set KUBE-NODE-PORT-SCTP-HASH dst,dst -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m comment --comment "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose" -m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SERVICES -s 127.0.0.0/8 -j RETURN
-A KUBE-SERVICES ! -s 10.42.0.0/16 -m comment --comment "Kubernetes service cluster ip + port for masquerade purpose" -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
COMMIT
END
ip6tables-restore --noflush <<'END'
*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODE-PORT -p tcp -m set --match-set KUBE-6-NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m set --match-set KUBE-6-LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SERVICES ! -s 2001:db8:42::/56 -m set --match-set KUBE-6-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
COMMIT
END
