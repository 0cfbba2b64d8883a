# Hashes, arrays, strings, regular expressions and closures.
use strict;
use warnings;

my $state = 42;
sub number { $state = ($state * 1103515245 + 12345) & 0x7fffffff; return $state >> 8; }

my (%index, @lines);
for my $i (1 .. 300_000) {
    my $word = "word" . (number() % 30_000);
    push @{ $index{$word} }, $i;
    push @lines, join(" ", $word, scalar reverse($word), $i) if $i % 3 == 0;
}
my $count = 0;
for my $line (@lines) {
    my @parts = split / /, $line;
    $count++ if $line =~ /^(\w+)7 .* \d*5$/;
    $line = join(",", map { uc } @parts);
}
my @closures = map { my $n = $_; sub { return $n + $_[0] } } 1 .. 50_000;
my $sum = 0;
$sum += $_->(1) for @closures;
my $text = join("\n", sort @lines);
$text =~ s/,/;/g;
print scalar(keys %index), " $count $sum ", length($text), "\n";
