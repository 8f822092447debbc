module github.com/ebpfpackets/ebpfpackets

go 1.26.0
