module github.com/np-appliance/np

go 1.26
