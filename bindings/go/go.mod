module flashqla

go 1.19
