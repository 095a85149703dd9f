package schloss; class Placeholder {}
