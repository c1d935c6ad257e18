# The RuntimeDefault filter: what ordinary programs need, less what reaches into the kernel or other tenants.
# Everything not named here fails with EPERM. In the spirit of the long-standing default of container engines.
#
#   allow NAMES                       always
#   allow if CAP_A CAP_B: NAMES       with any of these capabilities
#   allow arch ARCH: NAMES            only there
#   allow when arg N OP VALUE: NAMES  `==`, `!=`, `& MASK ==`
#   errno NUMBER unless CAP: NAMES    this error instead, without the capability

# Files and directories
allow access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
allow fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
allow fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
allow ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat inotify_add_watch inotify_init
allow inotify_init1 inotify_rm_watch lchown lchown32 lgetxattr link linkat listxattr listxattrat llistxattr _llseek
allow lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat
allow openat2 readahead readlink readlinkat removexattr removexattrat rename renameat renameat2 rmdir setxattr
allow setxattrat stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs truncate truncate64
allow umask unlink unlinkat utime utimensat utimensat_time64 utimes fanotify_mark cachestat file_getattr file_setattr
# Reading and writing
allow eventfd eventfd2 io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl
allow pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readv sendfile sendfile64 splice tee
allow vmsplice write writev memfd_create memfd_secret
# Waiting
allow epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old poll ppoll
allow ppoll_time64 pselect6 pselect6_time64 select _newselect signalfd signalfd4 timerfd_create timerfd_gettime
allow timerfd_gettime64 timerfd_settime timerfd_settime64
# Sockets
allow accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmmsg_time64
allow recvmsg sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
# AF_VSOCK is not bound to a network namespace: it would reach the hypervisor's host.
allow when arg 0 != 40: socket
# Memory
allow brk madvise map_shadow_stack membarrier mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap mseal msync
allow munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages
# Processes and threads
allow arch_prctl capget capset execve execveat exit exit_group fork vfork get_robust_list get_thread_area getcpu getegid
allow getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid getpriority
allow getresgid getresgid32 getresuid getresuid32 getrlimit ugetrlimit getrusage getsid gettid getuid getuid32
allow ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self nanosleep nice pause
allow pidfd_open pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev ptrace restart_syscall rseq
allow sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
allow sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
allow sched_setparam sched_setscheduler sched_yield seccomp set_robust_list set_thread_area set_tid_address setfsgid
allow setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid
allow setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32
allow sysinfo tgkill time times tkill uname wait4 waitid waitpid getitimer getrandom alarm
allow lsm_get_self_attr lsm_list_modules
# Futexes, signals, IPC
allow futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake ipc mq_getsetattr mq_notify mq_open
allow mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd
allow rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
allow rt_sigtimedwait_time64 rt_tgsigqueueinfo semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt
allow shmget sigaltstack signal sigaction sigpending sigprocmask sigreturn sigsuspend
# Clocks
allow adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
allow clock_nanosleep clock_nanosleep_time64 gettimeofday timer_create timer_delete timer_getoverrun timer_gettime
allow timer_gettime64 timer_settime timer_settime64
allow arch x86_64: modify_ldt
allow arch x86: modify_ldt
# Execution domains that only change how addresses and versions look
allow when arg 0 == 0x0: personality
allow when arg 0 == 0x8: personality
allow when arg 0 == 0x20000: personality
allow when arg 0 == 0x20008: personality
allow when arg 0 == 0xffffffff: personality
# New namespaces are for administrators. clone3 hides its flags in memory: ENOSYS makes libraries use clone.
allow when arg 0 & 0x7e020000 == 0: clone
allow if SYS_ADMIN: clone clone3
errno 38 unless SYS_ADMIN: clone3
# What comes with capabilities
allow if DAC_READ_SEARCH: open_by_handle_at
allow if SYS_ADMIN: bpf fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_set_self_attr mount
allow if SYS_ADMIN: mount_setattr move_mount open_tree open_tree_attr listmount statmount perf_event_open quotactl
allow if SYS_ADMIN: quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare
allow if SYS_BOOT: reboot
allow if SYS_CHROOT: chroot
allow if SYS_MODULE: delete_module finit_module init_module
allow if SYS_PACCT: acct
allow if SYS_PTRACE: kcmp pidfd_getfd process_madvise
allow if SYS_RAWIO: iopl ioperm
allow if SYS_TIME: settimeofday stime clock_settime clock_settime64
allow if SYS_TTY_CONFIG: vhangup
allow if SYS_NICE: get_mempolicy mbind set_mempolicy set_mempolicy_home_node
allow if SYSLOG: syslog
allow if BPF: bpf
allow if PERFMON: perf_event_open
