// A function without a body needs a file of this kind in its package.
