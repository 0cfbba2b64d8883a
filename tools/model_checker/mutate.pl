#!/usr/bin/env perl
# SPDX-License-Identifier: Apache-2.0
# mutate.pl MUTANTS SOURCE            checks that each mutant in the file MUTANTS fits SOURCE, and prints their names
# mutate.pl MUTANTS SOURCE N          prints SOURCE as mutant number N (1 and up) has it
# mutate.pl MUTANTS SOURCE N --why    prints why mutant N goes unnoticed; nothing if the model should find it
#
# A mutant is
#   @ what it does
#   lines of the source
#   =
#   what stands in their place
# with more such pairs behind another line "=" if it takes several. A pattern starts with a line and must be found exactly
# once. At the end stands, if it is known that the model does not find the mutant:
#   ? unnoticed: why
# Lines before the first mutant that start with # are comments, and empty lines between two mutants count for nothing.
use strict;
use warnings;

my ($file, $source_file, $number, $why) = @ARGV;
die "usage: mutate.pl MUTANTS SOURCE [N [--why]]\n" unless defined $source_file;

sub slurp {
    my ($name) = @_;
    open my $in, '<', $name or die "$name: $!\n";
    local $/;
    return scalar <$in>;
}

my $source = slurp($source_file);
my @mutants;
for my $text (split /^@ /m, slurp($file) =~ s/\A(?:#.*\n|\n)*//r) {
    next if $text eq '';
    my $reason = $text =~ s/^\? unnoticed: (.*)\n//m ? $1 : undef;
    $text =~ s/\A(.*)\n// or die "$file: a mutant without a name\n";
    push @mutants, { name => $1, reason => $reason, parts => [ split /^=\n/m, $text, -1 ] };
}

sub apply {
    my ($mutant) = @_;
    my $in = "$file: \"$mutant->{name}\"";
    my @parts = @{ $mutant->{parts} };
    die "$in: a pattern without a replacement\n" if @parts % 2 != 0;
    my $text = $source;
    while (my ($old, $new) = splice @parts, 0, 2) {
        s/\A\n+|\s+\z//g for $old, $new;
        die "$in: an empty pattern\n" if $old eq '';
        my $found = () = $text =~ /^\Q$old\E/mg;
        die "$in: found $found times in $source_file:\n$old\n" if $found != 1;
        $text =~ s/^\Q$old\E/$new/m;
    }
    return $text;
}

if (!defined $number) {
    my $bad = 0;
    for my $mutant (@mutants) {
        if (eval { apply($mutant) }) {
            print "$mutant->{name}\n";
        } else {
            print STDERR $@;
            $bad = 1;
        }
    }
    exit $bad;
}
my $mutant = $mutants[ $number - 1 ] // die "$file: no mutant $number\n";
print defined $why ? $mutant->{reason} // '' : apply($mutant);
