package derpmap

// Lenient is what Check sees of a map, and how many things in it the lenient
// decoder has stumbled over.
func Lenient(form Form, data []byte) (Map, int, error) {
	doc, err := readDocument(form, data)
	if err != nil {
		return Map{}, 0, err
	}
	problems := 0
	m, _ := decodeLeniently(doc, func(p problem) {
		if p.what != unknownKey && p.what != barePin {
			problems++
		}
	})
	return m, problems, nil
}
