// Package linked has doubly linked lists whose links lie in what they list, so that
// putting something into one allocates nothing and taking it out needs no search. It must
// not know what is listed, and takes no lock: who owns a list guards it.
package linked
