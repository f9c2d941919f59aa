package directives

// This is what errors call this project's coredns.
const This = "coredns, as this project builds it,"

// Refuses says why a coredns that has the directives of has does not start by a Corefile with the directive name, in a server block with
// sharedunicast or in another one; "" if it does. program is its name, as in This.
func Refuses(program string, has []string, name string, shared bool) string {
	why, known := Unfit[name], false
	for _, one := range has {
		known = known || one == name
	}
	if !known {
		text := program + " has no plugin " + name + ", and starts by no Corefile that names one"
		if why != "" && shared {
			text += ": " + why
		}
		return text
	}
	if why == "" {
		why = UnfitShared[name]
	}
	if shared && why != "" {
		return name + " cannot be in a server block with sharedunicast: " + why
	}
	return ""
}
