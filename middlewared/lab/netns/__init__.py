"""The lab in network namespaces: real interfaces, real keepalived, real packet filter. Needs root and iproute2."""
