# fish completion of midctl; made from schemas/ by `make docs`; do not edit

function __midctl_candidates
    set -l current (commandline -ct)
    set -l where
    for word in (commandline -opc)[2..-1]
        string match -qr -- '^-|=' $word; or set -a where $word
    end
    if string match -q -- '--*' $current
        printf '%s\n' --api-key-file --dry-run --editor --help --insecure --json --mode --otp --password --password-file --print-template --timeout --url --user --version --yes -h -n -t
        return
    end
    switch "$where"
        case ''
            printf '%s\n' 'account' 'auth' 'network' 'service	Services that run where the pools are' 'storage' 'system	This controller' 'call	call a method of the API by its name' 'subscribe	print events' 'watch	both controllers on the whole screen, live' 'help	what there is, and how to use it'
        case 'system'
            printf '%s\n' 'advanced	Console' 'alert	Alerts' 'audit	The audit log' 'boot_id	Show the identity of this boot' 'failover	High availability' 'general	Addresses of the user interface' 'hostname	Show the host name' 'info	Show what this controller is' 'pair	Who the other controller is, and by which certificate' 'ready	Show whether start-up is over' 'reboot	Reboot this controller' 'shutdown	Switch this controller off' 'version	Show the version of the software'
        case 'system alert'
            printf '%s\n' 'dismiss	Mark an alert as seen' 'list	List what is wrong now' 'restore	Undo a dismissal'
        case 'system audit'
            printf '%s\n' 'query	Show who changed what, and who logged in'
        case 'system failover'
            printf '%s\n' 'become_passive	Hand the role over to the other controller' 'config	Show the failover configuration' 'control	Enable or disable failover' 'disabled	Why failover would not work' 'explain	Explain why failover would not work now, with the evidence' 'fenced	Reservations on the shared disks' 'force_master	Make this controller the MASTER' 'get_ips	List the URLs of the virtual IPs' 'hardware	Show the hardware platform' 'history	Show past failovers, with the time that each step took' 'in_progress	Show whether a failover is running' 'licensed	Show whether this system is licensed as a pair' 'node	Show which controller this is' 'reboot	Pending reboots' 'rehearse	Check whether a takeover by the standby would work now' 'status	Show the role of this controller' 'status_refresh	Look again at everything that decides the status' 'sync_from_peer	Copy everything that belongs to the pair from the other controller' 'sync_to_peer	Copy everything that belongs to the pair to the other controller' 'update	Change the failover configuration' 'upgrade_finish	Finish a pending upgrade' 'upgrade_pending	Show whether an upgrade waits to be finished'
        case 'system failover disabled'
            printf '%s\n' 'reasons	List why failover would not work now'
        case 'system failover reboot'
            printf '%s\n' 'info	Show which controllers have to reboot, and why' 'other_node	Reboot the other controller'
        case 'system failover fenced'
            printf '%s\n' 'run_info	Show what the keeper of the disk reservations knows' 'start	Take the reservations of the shared disks by hand' 'stop	Give up the reservations of the shared disks by hand'
        case 'system pair'
            printf '%s\n' 'forget	Trust the other controller no longer' 'rotate	Give this controller a new certificate' 'status	Show whom this controller is paired with'
        case 'system general'
            printf '%s\n' 'config	Show where the user interface is served' 'get_ui_urls	List the addresses of the user interface'
        case 'system advanced'
            printf '%s\n' 'config	Show settings of the console'
        case 'auth'
            printf '%s\n' 'api_key	API keys' 'privilege	Privileges'
        case 'auth api_key'
            printf '%s\n' 'create	Create an API key' 'delete	Delete an API key' 'get_instance	Show one API key' 'query	List API keys' 'update	Change an API key'
        case 'auth privilege'
            printf '%s\n' 'create	Create a privilege' 'delete	Delete a privilege' 'get_instance	Show one privilege' 'query	List privileges' 'roles	List the roles that a privilege can give' 'update	Change a privilege'
        case 'storage'
            printf '%s\n' 'disk	Shared disks' 'pool	Pools on the shared disks'
        case 'storage disk'
            printf '%s\n' 'query	List shared disks'
        case 'storage pool'
            printf '%s\n' 'dataset	Encrypted datasets' 'query	List pools'
        case 'storage pool dataset'
            printf '%s\n' 'encryption	List encrypted datasets' 'forget_key	Forget the key of an encrypted dataset' 'unlock	Open an encrypted dataset, for takeovers too'
        case 'network'
            printf '%s\n' 'interface	Network interfaces'
        case 'network interface'
            printf '%s\n' 'bridge_members_choices	List the interfaces that can be ports of a bridge' 'checkin	Confirm the last commit' 'checkin_waiting	Tell how long a commit may still be confirmed' 'commit	Make the staged changes hold, until somebody checks in or time is up' 'create	Make a bridge, an aggregation of links, or a VLAN' 'delete	Delete an interface that was made, or reset a physical one' 'get_instance	Show one network interface' 'has_pending_changes	Tell whether changes wait to be committed' 'lag_ports_choices	List the interfaces that can be ports of an aggregation' 'query	List network interfaces' 'rollback	Forget what is staged, and undo a commit that was not confirmed' 'update	Change an interface' 'vlan_parent_interface_choices	List the interfaces that can carry a VLAN'
        case 'service'
            printf '%s\n' 'control	Start, stop or restart a service' 'create	Name a unit of systemd that belongs where the pools are' 'delete	Forget a service' 'get_instance	Show one service' 'query	List services' 'update	Choose whether and when a service starts with the active controller'
        case 'account'
            printf '%s\n' 'user	Users'
        case 'account user'
            printf '%s\n' 'create	Create a user' 'delete	Delete a user' 'get_instance	Show one user' 'has_local_administrator_set_up	Tell whether somebody can administer the system' 'query	List users' 'renew_2fa_secret	Give a user a new second factor' 'set_password	Change a password' 'setup_local_administrator	Create the first administrator' 'unset_2fa_secret	Take a user\'s second factor away' 'update	Change a user'
        case 'system alert list'
            switch $current
                case '*'
                    true
            end
        case 'system alert dismiss'
            switch $current
                case '*'
                    printf '%s\n' 'uuid=	Identifier of the alert'
            end
        case 'system alert restore'
            switch $current
                case '*'
                    printf '%s\n' 'uuid=	Identifier of the alert'
            end
        case 'system audit query'
            switch $current
                case '*'
                    true
            end
        case 'system failover disabled reasons'
            switch $current
                case '*'
                    true
            end
        case 'system failover reboot info'
            switch $current
                case '*'
                    true
            end
        case 'system failover reboot other_node'
            switch $current
                case '*'
                    printf '%s\n' 'options=	Refinements'
            end
        case 'system failover fenced run_info'
            switch $current
                case '*'
                    true
            end
        case 'system failover fenced start'
            switch $current
                case 'force=*'
                    printf '%s\n' 'force=true' 'force=false'
                case '*'
                    printf '%s\n' 'force=	Take them also from a controller that is alive on them'
            end
        case 'system failover fenced stop'
            switch $current
                case '*'
                    true
            end
        case 'system failover config'
            switch $current
                case '*'
                    true
            end
        case 'system failover update'
            switch $current
                case 'disabled=*'
                    printf '%s\n' 'disabled=true' 'disabled=false'
                case 'master=*'
                    printf '%s\n' 'master=true' 'master=false'
                case '*'
                    printf '%s\n' 'disabled=	Turn failover off (true) or on (false)' 'timeout=	Seconds that a MASTER whose network links are down keeps the role' 'master=	While failover is disabled'
            end
        case 'system failover control'
            switch $current
                case 'action=*'
                    printf '%s\n' 'action=ENABLE' 'action=DISABLE'
                case '*'
                    printf '%s\n' 'action=	What to do' 'options=	Refinements'
            end
        case 'system failover status'
            switch $current
                case '*'
                    true
            end
        case 'system failover status_refresh'
            switch $current
                case '*'
                    true
            end
        case 'system failover explain'
            switch $current
                case '*'
                    true
            end
        case 'system failover rehearse'
            switch $current
                case '*'
                    true
            end
        case 'system failover history'
            switch $current
                case '*'
                    true
            end
        case 'system failover in_progress'
            switch $current
                case '*'
                    true
            end
        case 'system failover licensed'
            switch $current
                case '*'
                    true
            end
        case 'system failover node'
            switch $current
                case '*'
                    true
            end
        case 'system failover hardware'
            switch $current
                case '*'
                    true
            end
        case 'system failover get_ips'
            switch $current
                case '*'
                    true
            end
        case 'system failover force_master'
            switch $current
                case '*'
                    true
            end
        case 'system failover become_passive'
            switch $current
                case '*'
                    true
            end
        case 'system failover sync_to_peer'
            switch $current
                case '*'
                    printf '%s\n' 'options=	Refinements'
            end
        case 'system failover sync_from_peer'
            switch $current
                case '*'
                    true
            end
        case 'system failover upgrade_pending'
            switch $current
                case '*'
                    true
            end
        case 'system failover upgrade_finish'
            switch $current
                case '*'
                    true
            end
        case 'system pair status'
            switch $current
                case '*'
                    true
            end
        case 'system pair rotate'
            switch $current
                case '*'
                    true
            end
        case 'system pair forget'
            switch $current
                case '*'
                    true
            end
        case 'system general config'
            switch $current
                case '*'
                    true
            end
        case 'system general get_ui_urls'
            switch $current
                case '*'
                    true
            end
        case 'system advanced config'
            switch $current
                case '*'
                    true
            end
        case 'system info'
            switch $current
                case '*'
                    true
            end
        case 'system version'
            switch $current
                case '*'
                    true
            end
        case 'system hostname'
            switch $current
                case '*'
                    true
            end
        case 'system boot_id'
            switch $current
                case '*'
                    true
            end
        case 'system ready'
            switch $current
                case '*'
                    true
            end
        case 'system reboot'
            switch $current
                case '*'
                    printf '%s\n' 'reason=	Why, for the log and for whoever asks later' 'options=	When'
            end
        case 'system shutdown'
            switch $current
                case '*'
                    printf '%s\n' 'reason=	Why, for the log and for whoever asks later' 'options=	When'
            end
        case 'auth api_key query'
            switch $current
                case '*'
                    true
            end
        case 'auth api_key get_instance'
            switch $current
                case '*'
                    printf '%s\n' 'id=	Identifier'
            end
        case 'auth api_key create'
            switch $current
                case '*'
                    printf '%s\n' 'name=	Name, to know it by' 'username=	Whose key' 'expires_at=	When it ends'
            end
        case 'auth api_key update'
            switch $current
                case 'revoked=*'
                    printf '%s\n' 'revoked=true' 'revoked=false'
                case '*'
                    printf '%s\n' 'id=	Identifier' 'name=	Name, to know it by' 'expires_at=	When it ends' 'revoked=	End the key at once'
            end
        case 'auth api_key delete'
            switch $current
                case '*'
                    printf '%s\n' 'id=	Identifier'
            end
        case 'auth privilege query'
            switch $current
                case '*'
                    true
            end
        case 'auth privilege get_instance'
            switch $current
                case '*'
                    printf '%s\n' 'id=	Identifier'
            end
        case 'auth privilege roles'
            switch $current
                case '*'
                    true
            end
        case 'auth privilege create'
            switch $current
                case '*'
                    printf '%s\n' 'name=	Name' 'groups=	The groups that have it' 'roles=	Role names'
            end
        case 'auth privilege update'
            switch $current
                case '*'
                    printf '%s\n' 'id=	Identifier' 'name=	Name' 'groups=	All groups that have it from now on' 'roles=	Role names'
            end
        case 'auth privilege delete'
            switch $current
                case '*'
                    printf '%s\n' 'id=	Identifier'
            end
        case 'storage disk query'
            switch $current
                case '*'
                    true
            end
        case 'storage pool dataset encryption'
            switch $current
                case '*'
                    true
            end
        case 'storage pool dataset unlock'
            switch $current
                case '*'
                    printf '%s\n' 'id=	The encryption root' 'key=	Its passphrase'
            end
        case 'storage pool dataset forget_key'
            switch $current
                case '*'
                    printf '%s\n' 'id=	The encryption root'
            end
        case 'storage pool query'
            switch $current
                case '*'
                    true
            end
        case 'network interface query'
            switch $current
                case '*'
                    true
            end
        case 'network interface get_instance'
            switch $current
                case '*'
                    printf '%s\n' 'id=	Name of the interface'
            end
        case 'network interface create'
            switch $current
                case 'type=*'
                    printf '%s\n' 'type=BRIDGE' 'type=LINK_AGGREGATION' 'type=VLAN'
                case 'ipv4_dhcp=*'
                    printf '%s\n' 'ipv4_dhcp=true' 'ipv4_dhcp=false'
                case 'ipv6_auto=*'
                    printf '%s\n' 'ipv6_auto=true' 'ipv6_auto=false'
                case 'stp=*'
                    printf '%s\n' 'stp=true' 'stp=false'
                case 'lag_protocol=*'
                    printf '%s\n' 'lag_protocol=LACP' 'lag_protocol=FAILOVER' 'lag_protocol=LOADBALANCE' 'lag_protocol=ROUNDROBIN'
                case 'xmit_hash_policy=*'
                    printf '%s\n' 'xmit_hash_policy=LAYER2' 'xmit_hash_policy=LAYER2+3' 'xmit_hash_policy=LAYER3+4'
                case 'lacpdu_rate=*'
                    printf '%s\n' 'lacpdu_rate=SLOW' 'lacpdu_rate=FAST'
                case '*'
                    printf '%s\n' 'type=	What to make' 'name=	Name in the kernel' 'description=	The administrator\'s words' 'mtu=	In bytes' 'aliases=	This controller\'s own addresses' 'failover_aliases=	The other controller\'s own addresses' 'ipv4_dhcp=	Refused when true' 'ipv6_auto=	Refused when true, likewise' 'bridge_members=	BRIDGE' 'stp=	BRIDGE' 'lag_protocol=	LINK_AGGREGATION' 'lag_ports=	LINK_AGGREGATION' 'xmit_hash_policy=	LINK_AGGREGATION' 'lacpdu_rate=	LINK_AGGREGATION' 'vlan_parent_interface=	VLAN' 'vlan_tag=	VLAN' 'vlan_pcp=	VLAN'
            end
        case 'network interface update'
            switch $current
                case 'failover_critical=*'
                    printf '%s\n' 'failover_critical=true' 'failover_critical=false'
                case 'ipv4_dhcp=*'
                    printf '%s\n' 'ipv4_dhcp=true' 'ipv4_dhcp=false'
                case 'ipv6_auto=*'
                    printf '%s\n' 'ipv6_auto=true' 'ipv6_auto=false'
                case 'stp=*'
                    printf '%s\n' 'stp=true' 'stp=false'
                case 'lag_protocol=*'
                    printf '%s\n' 'lag_protocol=LACP' 'lag_protocol=FAILOVER' 'lag_protocol=LOADBALANCE' 'lag_protocol=ROUNDROBIN'
                case 'xmit_hash_policy=*'
                    printf '%s\n' 'xmit_hash_policy=LAYER2' 'xmit_hash_policy=LAYER2+3' 'xmit_hash_policy=LAYER3+4'
                case 'lacpdu_rate=*'
                    printf '%s\n' 'lacpdu_rate=SLOW' 'lacpdu_rate=FAST'
                case '*'
                    printf '%s\n' 'id=	Name of the interface' 'failover_critical=	Whether losing this link makes the other controller take over' 'failover_group=	Failover group' 'failover_virtual_aliases=	The addresses that move' 'description=	The administrator\'s words' 'mtu=	In bytes' 'aliases=	This controller\'s own addresses' 'failover_aliases=	The other controller\'s own addresses' 'ipv4_dhcp=	Refused when true' 'ipv6_auto=	Refused when true, likewise' 'bridge_members=	BRIDGE' 'stp=	BRIDGE' 'lag_protocol=	LINK_AGGREGATION' 'lag_ports=	LINK_AGGREGATION' 'xmit_hash_policy=	LINK_AGGREGATION' 'lacpdu_rate=	LINK_AGGREGATION' 'vlan_parent_interface=	VLAN' 'vlan_tag=	VLAN' 'vlan_pcp=	VLAN'
            end
        case 'network interface delete'
            switch $current
                case '*'
                    printf '%s\n' 'id=	Name of the interface'
            end
        case 'network interface has_pending_changes'
            switch $current
                case '*'
                    true
            end
        case 'network interface commit'
            switch $current
                case '*'
                    printf '%s\n' 'options=	How'
            end
        case 'network interface checkin_waiting'
            switch $current
                case '*'
                    true
            end
        case 'network interface checkin'
            switch $current
                case '*'
                    true
            end
        case 'network interface rollback'
            switch $current
                case '*'
                    true
            end
        case 'network interface bridge_members_choices'
            switch $current
                case '*'
                    printf '%s\n' 'id=	The interface that is to be changed'
            end
        case 'network interface lag_ports_choices'
            switch $current
                case '*'
                    printf '%s\n' 'id=	The interface that is to be changed'
            end
        case 'network interface vlan_parent_interface_choices'
            switch $current
                case '*'
                    true
            end
        case 'service query'
            switch $current
                case '*'
                    true
            end
        case 'service get_instance'
            switch $current
                case '*'
                    printf '%s\n' 'id=	Number or name of the service'
            end
        case 'service create'
            switch $current
                case 'enable=*'
                    printf '%s\n' 'enable=true' 'enable=false'
                case 'critical=*'
                    printf '%s\n' 'critical=true' 'critical=false'
                case '*'
                    printf '%s\n' 'service=	Name' 'unit=	Unit of systemd' 'enable=	Start it where the pools are' 'start_order=	Lower numbers start first and stop last' 'critical=	Started before traffic to the virtual addresses is let in'
            end
        case 'service update'
            switch $current
                case 'enable=*'
                    printf '%s\n' 'enable=true' 'enable=false'
                case 'critical=*'
                    printf '%s\n' 'critical=true' 'critical=false'
                case '*'
                    printf '%s\n' 'id=	Number or name of the service' 'enable=	Start it where the pools are' 'start_order=	Lower numbers start first and stop last' 'critical=	Started before traffic to the virtual addresses is let in'
            end
        case 'service control'
            switch $current
                case 'verb=*'
                    printf '%s\n' 'verb=START' 'verb=STOP' 'verb=RESTART'
                case '*'
                    printf '%s\n' 'verb=	What to do' 'service=	Name of the service' 'options=	How'
            end
        case 'service delete'
            switch $current
                case '*'
                    printf '%s\n' 'id=	Number or name of the service'
            end
        case 'account user query'
            switch $current
                case '*'
                    true
            end
        case 'account user get_instance'
            switch $current
                case '*'
                    printf '%s\n' 'id=	Identifier'
            end
        case 'account user create'
            switch $current
                case 'locked=*'
                    printf '%s\n' 'locked=true' 'locked=false'
                case '*'
                    printf '%s\n' 'username=	User name' 'full_name=	Full name' 'password=	Password' 'groups=	Groups' 'uid=	The local user id that is this user on the unix socket, without a login' 'locked=	May not log in'
            end
        case 'account user update'
            switch $current
                case 'locked=*'
                    printf '%s\n' 'locked=true' 'locked=false'
                case '*'
                    printf '%s\n' 'id=	Identifier' 'full_name=	Full name' 'password=	New password' 'groups=	All groups of the user from now on' 'uid=	The local user id that is this user on the unix socket, without a login' 'locked=	May not log in'
            end
        case 'account user delete'
            switch $current
                case '*'
                    printf '%s\n' 'id=	Identifier'
            end
        case 'account user set_password'
            switch $current
                case '*'
                    printf '%s\n' 'data=	The change'
            end
        case 'account user renew_2fa_secret'
            switch $current
                case '*'
                    printf '%s\n' 'username=	Whose'
            end
        case 'account user unset_2fa_secret'
            switch $current
                case '*'
                    printf '%s\n' 'username=	Whose'
            end
        case 'account user has_local_administrator_set_up'
            switch $current
                case '*'
                    true
            end
        case 'account user setup_local_administrator'
            switch $current
                case '*'
                    printf '%s\n' 'username=	User name' 'password=	Password'
            end
    end
end

complete -c midctl -f -a '(__midctl_candidates)'
